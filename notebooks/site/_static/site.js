// What scrolls sideways can be reached and scrolled by keyboard, and panels have names.
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
  /** The theme's two side panels, told apart by name. */
  function name() {
    for (const [panel, label] of [[".sidebar-drawer", "Site"], [".toc-drawer", "This page"]]) {
      document.querySelector(panel)?.setAttribute("aria-label", label);
    }
  }
  addEventListener("load", name);
  addEventListener("load", reachable);
  addEventListener("resize", reachable);
})();
