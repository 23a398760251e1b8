// What scrolls sideways can be reached and scrolled by keyboard.
(function () {
  "use strict";
  function reachable() {
    for (const box of document.querySelectorAll("pre, .table-wrapper, .cell_output .output.text_html")) {
      if (box.scrollWidth > box.clientWidth && !box.hasAttribute("tabindex")) {
        box.tabIndex = 0;
        if (box.tagName !== "PRE") {
          box.setAttribute("role", "group");
          box.setAttribute("aria-label", "Wide table");
        }
      }
    }
  }
  addEventListener("load", reachable);
  addEventListener("resize", reachable);
})();
