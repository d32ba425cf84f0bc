// Tags a sound file, or the microphone, window by window, with model.onnx beside this page.
"use strict";

const model = JSON.parse(document.getElementById("model").textContent);
const rate = model.sample_rate;
const size = Math.round(model.window_s * rate);
const SHOWN = 3; // labels a window
const say = (text) => { document.getElementById("status").textContent = text; };
const file = document.getElementById("file");
const microphone = document.getElementById("microphone");
const heard = document.getElementById("heard");
let session, listening = null;

async function start() {
  if (typeof ort === "undefined") {
    say("onnxruntime-web is missing: put its files into the folder onnxruntime-web/ beside this " +
        "page (docs/export.md says which).");
    return;
  }
  ort.env.wasm.wasmPaths = new URL("onnxruntime-web/", location.href).href;
  ort.env.wasm.numThreads = 1; // more need headers that a simple server does not send
  session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  file.disabled = microphone.disabled = false;
  say("Ready.");
}

async function probabilities(samples) {
  const found = await session.run({
    audio: new ort.Tensor("float32", samples, [1, samples.length]),
    num_samples: new ort.Tensor("int32", Int32Array.of(samples.length), [1]),
  });
  return found.probabilities.data;
}

function show(start, end, values, first) {
  const best = Array.from(values, (p, i) => [p, model.label_names[i]])
    .sort((a, b) => b[0] - a[0]).slice(0, SHOWN);
  const row = document.createElement("tr");
  const time = row.insertCell();
  time.textContent = `${start.toFixed(1)} to ${end.toFixed(1)}`;
  const what = row.insertCell();
  for (const [p, name] of best) {
    const meter = document.createElement("meter");
    meter.value = p;
    const line = document.createElement("div");
    line.append(meter, ` ${p.toFixed(2)} ${name}`);
    what.append(line);
  }
  if (first) heard.prepend(row); else heard.append(row);
}

function mono(buffer) {
  const mixed = new Float32Array(buffer.length);
  for (let c = 0; c < buffer.numberOfChannels; c++) {
    const channel = buffer.getChannelData(c);
    for (let i = 0; i < mixed.length; i++) mixed[i] += channel[i] / buffer.numberOfChannels;
  }
  return mixed;
}

async function tagFile(chosen) {
  heard.replaceChildren();
  say(`Reading ${chosen.name} …`);
  // A context of the model's rate resamples what it decodes.
  const context = new OfflineAudioContext(1, 1, rate);
  const samples = mono(await context.decodeAudioData(await chosen.arrayBuffer()));
  for (let at = 0; at < samples.length; at += size) {
    const part = samples.slice(at, at + size);
    show(at / rate, (at + part.length) / rate, await probabilities(part), false);
    say(`${Math.min(100, Math.round(100 * (at + size) / samples.length))} % of ${chosen.name}`);
  }
  say(`Done: ${chosen.name}`);
}

// The newest window, once a second; a worklet hands on what the microphone hears.
async function listen() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const context = new AudioContext({ sampleRate: rate });
  const worklet = 'registerProcessor("tap", class extends AudioWorkletProcessor {' +
    "process(inputs) { if (inputs[0][0]) this.port.postMessage(inputs[0][0].slice());" +
    "return true; } });";
  const address = URL.createObjectURL(new Blob([worklet], { type: "text/javascript" }));
  await context.audioWorklet.addModule(address);
  const tap = new AudioWorkletNode(context, "tap");
  const newest = new Float32Array(size);
  let total = 0;
  tap.port.onmessage = ({ data }) => {
    newest.copyWithin(0, data.length);
    newest.set(data, size - data.length);
    total += data.length;
  };
  context.createMediaStreamSource(stream).connect(tap).connect(context.destination);
  heard.replaceChildren();
  microphone.textContent = "stop listening";
  say("Listening …");
  let busy = false;
  const timer = setInterval(async () => {
    if (busy || total < rate / 2) return;
    busy = true;
    const known = Math.min(total, size), end = total / rate;
    show(end - known / rate, end, await probabilities(newest.slice(size - known)), true);
    while (heard.rows.length > 20) heard.deleteRow(-1);
    busy = false;
  }, 1000);
  listening = () => {
    clearInterval(timer);
    stream.getTracks().forEach((track) => track.stop());
    context.close();
    listening = null;
    microphone.textContent = "listen to the microphone";
    say("Ready.");
  };
}

const failed = (error) => say(`That did not work: ${error.message || error}`);
file.addEventListener("change", () => {
  if (file.files.length) tagFile(file.files[0]).catch(failed);
});
microphone.addEventListener("click", () => {
  if (listening) listening(); else listen().catch(failed);
});
start().catch(failed);
