// The slider of the landing page: the range input, moved by pointer or keys, says how much of the upper picture shows.
for (const figure of document.querySelectorAll(".compare")) {
  const input = figure.querySelector("input");
  const show = () => figure.style.setProperty("--share", `${input.value}%`);
  input.addEventListener("input", show);
  show();
}

// The theme's search button is named by what it shows, the keys included, and not by another label.
for (const button of document.querySelectorAll(".search-button__button")) {
  button.removeAttribute("aria-label");
}
