// The page of `maelib ui`: lets photo_painter.js talk to maelib.course.photo_page through a web socket, as if in a notebook.
const { default: widget } = await import(`./photo_painter.js${location.search}`); // the token is in the address
document.body.innerHTML = `
<style>
  :root { color-scheme: light dark; }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 1300px; margin: 0 auto; }
  header { display: flex; justify-content: space-between; align-items: center; padding: 0 12px; }
  h1 { font-size: 1.4rem; }
  #done { font: inherit; min-height: 44px; padding: 0 16px; }
</style>
<header><h1>Repair a photo</h1><button id="done">Done</button></header>
<main></main>`;
const main = document.querySelector("main");
const socket = new WebSocket(`ws://${location.host}/socket${location.search}`);
socket.binaryType = "arraybuffer";

let content, answer;
const model = {
  on: (event, listener) => (answer = listener),
  off: () => {},
  send: (message, callbacks, buffers = []) => {
    socket.send(JSON.stringify(message));
    socket.send(buffers[0] ?? new ArrayBuffer(0));
  },
};
socket.onmessage = ({ data }) => {
  if (typeof data === "string") content = JSON.parse(data);
  else answer(content, [new DataView(data)]);
};
socket.onopen = () => widget.render({ model, el: main });
socket.onclose = () => {
  main.inert = true;
  document.querySelector("header").innerHTML = "<p role='alert'>maelib ui has ended. What you saved is kept; you can close this page.</p>";
};
document.querySelector("#done").onclick = () => model.send({ do: "end" });
