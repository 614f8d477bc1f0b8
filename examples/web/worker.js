// Loads a model's folder, then answers questions.

let model;

onmessage = async ({ data }) => {
  try {
    if (data.folder) {
      const { load } = await import(`${data.folder}index.js`);
      model = await load({ progress: (bytes, all) => postMessage({ bytes, all }) });
      if (model.task !== "answer") throw new Error(`This page asks questions, and the model is for: ${model.task}.`);
      postMessage({ level: model.level });
      return;
    }
    const start = performance.now();
    const answers = model.answer(data.question, data.text, 3);
    postMessage({ answers, milliseconds: performance.now() - start });
  } catch (error) {
    postMessage({ error: error.message, level: model?.level });
  }
};
