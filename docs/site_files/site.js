// what scrolls sideways can be reached and moved by keyboard
function reachable() {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap, pre > code")) {
    if (box.scrollWidth > box.clientWidth) {
      box.tabIndex = 0;
    }
  }
}
window.addEventListener("load", reachable);
window.addEventListener("resize", reachable);
