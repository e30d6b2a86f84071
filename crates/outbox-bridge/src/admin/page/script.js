"use strict";
(() => {
  const EVERY = 2000, PATIENCE = 5000;
  const stale = document.getElementById("stale");
  let answered = new Date();

  // Changes only what differs, so that a selection or the focus stays where it is.
  const morph = (old, fresh) => {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
      old.replaceWith(document.importNode(fresh, true));
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const olds = [...old.childNodes], news = [...fresh.childNodes];
    news.forEach((child, index) => {
      if (olds[index]) morph(olds[index], child);
      else old.append(document.importNode(child, true));
    });
    olds.slice(news.length).forEach((child) => child.remove());
  };

  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (!answer.ok) throw new Error(answer.statusText);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const page = fresh.getElementById("page");
      if (!page) throw new Error("no page");
      morph(document.getElementById("page"), page);
      document.title = fresh.title;
      answered = new Date();
      stale.hidden = true;
      document.getElementById("page").classList.remove("old");
    } catch {
      const time = answered.toISOString().slice(11, 19);
      stale.textContent = `No answer from the bridge since ${time} UTC: what stands below is from then. If its process has ended, the last line of its log at level ERROR says why (deploy/README.md, OutboxBridgeDown).`;
      stale.hidden = false;
      document.getElementById("page").classList.add("old");
    }
  };

  const loop = async () => {
    await refresh();
    setTimeout(loop, EVERY);
  };
  setTimeout(loop, EVERY);
  document.addEventListener("visibilitychange", refresh);
})();
