// Keeps the page of the queue up to date while somebody looks at it. Without this script a link does.
const page = document.querySelector("#queue");
const lost = document.querySelector("#queue-lost");
const wanted = document.querySelector("#queue-live input");
wanted.parentElement.hidden = false;
document.querySelector("#queue-live a").hidden = true;

const isSame = (one, other) =>
  one.nodeName === other.nodeName && (one.dataset?.key || one.id) === (other.dataset?.key || other.id);

// Makes a node like another one, and leaves alone what is alike: the focus, what is selected, and open details.
function bringInLine(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  let next = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    let found = next;
    while (found && !isSame(found, child)) found = found.nextSibling;
    if (!found) {
      old.insertBefore(child, next);
      continue;
    }
    while (next !== found) {
      const gone = next;
      next = next.nextSibling;
      gone.remove();
    }
    bringInLine(found, child);
    next = found.nextSibling;
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

async function refresh() {
  try {
    const answer = await fetch(page.dataset.url, { redirect: "error" });
    if (!answer.ok) throw new Error(answer.status);
    const fresh = page.cloneNode(false);
    fresh.innerHTML = await answer.text();
    bringInLine(page, fresh);
    lost.hidden = true;
  } catch {
    lost.hidden = false;
  }
}

(async () => {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 2000));
    if (wanted.checked && !document.hidden) await refresh();
  }
})();
