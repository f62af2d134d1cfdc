// A search field above the tables of options.md, which shows only the options that hold all words of it.
document.addEventListener("DOMContentLoaded", () => {
  const page = document.querySelector("#all-options-of-a-recipe");
  if (!page) return;
  const field = Object.assign(document.createElement("input"), {id: "option-filter", type: "search"});
  const label = document.createElement("label");
  label.append("Show only options with ", field);
  page.insertBefore(label, page.querySelector("section"));
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase().split(/\s+/);
    page.querySelectorAll("tbody tr").forEach(row => {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every(word => text.includes(word));
    });
    page.querySelectorAll("section").forEach(section => {
      section.hidden = !section.querySelector("tbody tr:not([hidden])");
    });
  });
});
