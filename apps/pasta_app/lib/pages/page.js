// Renews the page and tells how long ago things were; without it the page shows the same.
"use strict";

const RENEW_MS = 15000;

function dress(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const seconds = (Date.now() - Date.parse(time.dateTime)) / 1000;
    if (Number.isFinite(seconds) && seconds >= 0 && seconds < 3600) {
      time.title = time.textContent;
      time.textContent = seconds < 60 ? "just now" : `${Math.floor(seconds / 60)} min ago`;
    }
  }
}

async function renew() {
  const updated = document.getElementById("updated");
  if (document.hidden || !updated) return;
  try {
    const response = await fetch(location.href, { credentials: "same-origin" });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    if (!response.ok || !page.getElementById("updated")) throw new Error("signed out");
    const main = page.getElementById("main");
    dress(main);
    document.getElementById("main").replaceWith(main);
    updated.textContent = `updated ${new Date().toISOString().slice(11, 19)} UTC`;
  } catch {
    updated.textContent = "not updated: the server does not answer; reload the page";
  }
}

dress(document);
if (document.getElementById("updated")) {
  document.getElementById("updated").textContent = "renews itself every 15 s";
  setInterval(renew, RENEW_MS);
}
