"use strict";
{
  const sheet = document.querySelector("main").dataset.sheet;
  const place = `blind-sheet-${sheet}`; // of unsaved work, in this browser
  const radios = [...document.querySelectorAll("input[type=radio]")];
  const questions = new Set(radios.map((radio) => radio.name)).size;
  const done = document.querySelector("#done");
  const bar = document.querySelector("progress");
  const next = document.querySelector("#next");
  const save = document.querySelector("#save");
  let isSaved = true;

  const ratings = () => {
    const chosen = {};
    for (const { checked, value, dataset } of radios) {
      if (checked) chosen[dataset.prompt] = { ...chosen[dataset.prompt], [dataset.criterion]: value };
    }
    return chosen;
  };

  const show = () => {
    const count = radios.filter((radio) => radio.checked).length;
    done.textContent = `${count} / ${questions}`;
    bar.value = count;
    next.disabled = count === questions;
    for (const article of document.querySelectorAll("article")) {
      const open = [...article.querySelectorAll("fieldset")].some((field) => !field.querySelector(":checked"));
      article.classList.toggle("done", !open);
    }
  };

  const remember = () => {
    isSaved = false;
    try {
      localStorage.setItem(place, JSON.stringify(ratings()));
    } catch {
      // a browser may forbid storage to files; the button still saves
    }
    show();
  };

  const recall = () => {
    let kept = {};
    try {
      kept = JSON.parse(localStorage.getItem(place)) ?? {};
    } catch {
      // nothing to recall
    }
    for (const radio of radios) radio.checked = kept[radio.dataset.prompt]?.[radio.dataset.criterion] === radio.value;
  };

  document.addEventListener("change", remember);
  next.addEventListener("click", () => {
    const open = document.querySelector("fieldset:not(:has(:checked))");
    open.scrollIntoView({ block: "center", behavior: "smooth" });
    open.querySelector("input").focus({ preventScroll: true });
  });
  save.addEventListener("click", () => {
    const content = JSON.stringify({ sheet, ratings: ratings() }, null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type: "application/json" }));
    link.download = "ratings.json";
    link.click();
    isSaved = true;
  });
  window.addEventListener("beforeunload", (event) => {
    if (!isSaved) event.preventDefault();
  });

  recall();
  show();
  document.querySelector("footer").hidden = false;
}
