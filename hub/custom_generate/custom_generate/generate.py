"""DoLa through the hub's `custom_generate` convention. All of it is in the package: pip install dola-decoding."""


def generate(model, *args, dola_layers=None, **kwargs):
    """`model.generate(..., custom_generate="<this repository>", trust_remote_code=True, dola_layers="high")`."""
    import dola

    return dola.generate(model, *args, dola_layers=dola_layers, **kwargs)
