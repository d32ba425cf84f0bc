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
let latest = 0; // number of what was begun last: what was begun before shows nothing more
let turn = Promise.resolve(); // a session hears one thing at a time

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

function probabilities(samples) {
  const found = turn.then(() => session.run({
    audio: new ort.Tensor("float32", samples, [1, samples.length]),
    num_samples: new ort.Tensor("int32", Int32Array.of(samples.length), [1]),
  })).then((values) => values.probabilities.data);
  turn = found.catch(() => {});
  return found;
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
  if (listening) listening();
  const run = ++latest;
  try {
    await tagWindows(chosen, () => run === latest);
  } catch (error) {
    if (run === latest) throw error;
  }
}

async function tagWindows(chosen, wanted) {
  heard.replaceChildren();
  say(`Reading ${chosen.name} …`);
  // A context of the model's rate resamples what it decodes.
  const context = new OfflineAudioContext(1, 1, rate);
  const samples = mono(await context.decodeAudioData(await chosen.arrayBuffer()));
  for (let at = 0; at < samples.length && wanted(); at += size) {
    const part = samples.slice(at, at + size);
    const values = await probabilities(part);
    if (!wanted()) return;
    show(at / rate, (at + part.length) / rate, values, false);
    say(`${Math.min(100, Math.round(100 * (at + size) / samples.length))} % of ${chosen.name}`);
  }
  if (wanted()) say(`Done: ${chosen.name}`);
}

// The newest window, once a second; a worklet hands on what the microphone hears.
async function listen() {
  const run = ++latest;
  let stream, context, timer;
  const close = () => {
    clearInterval(timer);
    if (stream) stream.getTracks().forEach((track) => track.stop());
    if (context) context.close();
    listening = null;
    microphone.textContent = "listen to the microphone";
  };
  microphone.disabled = true; // until it is known whether it may be heard
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    context = new AudioContext({ sampleRate: rate });
    const newest = await tap(stream, context);
    if (run !== latest) { close(); return; } // a file was chosen meanwhile
    timer = hearEachSecond(newest, () => run === latest, (error) => { close(); failed(error); });
  } catch (error) {
    close();
    throw error;
  } finally {
    microphone.disabled = false;
  }
  listening = () => { latest += 1; close(); say("Ready."); };
  heard.replaceChildren();
  microphone.textContent = "stop listening";
  say("Listening …");
}

// What the microphone hears: the newest window, and how many samples there were.
async function tap(stream, context) {
  const worklet = 'registerProcessor("tap", class extends AudioWorkletProcessor {' +
    "process(inputs) { if (inputs[0][0]) this.port.postMessage(inputs[0][0].slice());" +
    "return true; } });";
  const address = URL.createObjectURL(new Blob([worklet], { type: "text/javascript" }));
  await context.audioWorklet.addModule(address);
  const node = new AudioWorkletNode(context, "tap");
  const newest = { samples: new Float32Array(size), total: 0 };
  node.port.onmessage = ({ data }) => {
    newest.samples.copyWithin(0, data.length);
    newest.samples.set(data, size - data.length);
    newest.total += data.length;
  };
  context.createMediaStreamSource(stream).connect(node).connect(context.destination);
  return newest;
}

function hearEachSecond(newest, wanted, onError) {
  let busy = false;
  return setInterval(async () => {
    if (busy || newest.total < rate / 2) return;
    busy = true;
    try {
      const known = Math.min(newest.total, size), end = newest.total / rate;
      const values = await probabilities(newest.samples.slice(size - known));
      if (!wanted()) return;
      show(end - known / rate, end, values, true);
      while (heard.rows.length > 20) heard.deleteRow(-1);
    } catch (error) {
      if (wanted()) onError(error);
    } finally {
      busy = false;
    }
  }, 1000);
}

const failed = (error) => say(`That did not work: ${error.message || error}`);
file.addEventListener("change", () => {
  if (file.files.length) tagFile(file.files[0]).catch(failed);
});
microphone.addEventListener("click", () => {
  if (listening) listening(); else listen().catch(failed);
});
start().catch(failed);
