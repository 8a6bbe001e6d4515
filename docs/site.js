// On narrow windows, wide tables and pictures of terminals scroll in boxes. This lets the keyboard reach them.
const name = (box, label) => {
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", label);
};
const reach = () => {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) name(box, "Table");
  for (const picture of document.querySelectorAll(".md-typeset :not(.terminal) > picture")) {
    const box = document.createElement("div");
    box.className = "terminal";
    name(box, "Picture of a terminal");
    picture.replaceWith(box);
    box.append(picture);
  }
};
new MutationObserver(reach).observe(document.documentElement, { childList: true, subtree: true });
reach();
