// Runs the task without a reload. Without this script the form leads to a page with the result.
const form = document.querySelector("form");
const result = document.querySelector("#result");
const json = { headers: { Accept: "application/json" } };

async function answer(response) {
  if (response.ok) return response.json();
  const sentence = response.headers.get("Content-Type")?.startsWith("text/plain") && (await response.text());
  throw new Error(sentence || `The server answered ${response.status}; its log says why.`);
}

async function run(body) {
  const response = await fetch(form.action, { ...json, method: "POST", body });
  let state = await answer(response);
  while (!state.done) {
    result.textContent = state.text;
    await new Promise((resolve) => setTimeout(resolve, 300));
    state = await answer(await fetch(response.url, json));
  }
  return state.text;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const buttons = form.querySelectorAll("button");
  const body = new FormData(form, event.submitter);
  buttons.forEach((button) => { button.disabled = true; });
  result.textContent = "Sent …";
  try {
    result.textContent = await run(body);
  } catch (error) {
    result.textContent = error.message;
  } finally {
    buttons.forEach((button) => { button.disabled = false; });
  }
});
