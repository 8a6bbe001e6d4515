"""`dola ui`: a local page that decodes greedily and with DoLa side by side, and shows what each layer predicts.

    form -> Session.answer -> live_trace.follow -> View -> the page

`session.py`, `models.py`, `request.py` and `view.py` need no web framework; `page.py` lays its components out, and `server.py`
serves them.
"""
