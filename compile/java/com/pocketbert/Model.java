package com.pocketbert;

import java.io.File;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Objects;

/**
 * A compiled model, open in this process.
 *
 * <pre>{@code
 * try (Model model = Model.open("mobilebert")) {
 *     ByteBuffer[] inputs = model.allocateInputs();
 *     ByteBuffer[] outputs = model.allocateOutputs();
 *     inputs[0].asLongBuffer().put(ids); // and so on, in the order of model.inputs()
 *     model.run(ids.length, inputs, outputs);
 *     float first = outputs[0].getFloat(0);
 * }
 * }</pre>
 *
 * <p>All methods may be called from any thread. One inference runs at a time and further callers wait for it; to run
 * several at once, open several models: they share the weights.
 */
public final class Model implements AutoCloseable {
    /** How a model is opened. */
    public static final class Options {
        int threads;
        long cores;
        Log log;

        /** 1 to 64 threads, the caller's among them, or 0 for what the library was built with. */
        public Options threads(int count) {
            threads = count;
            return this;
        }

        /**
         * Bit i: the model's threads may use core i; -1: all; 0: the big ones. The caller's thread is not moved. A core
         * that the device does not have is an IllegalArgumentException when the model is opened.
         */
        public Options cores(long mask) {
            cores = mask;
            return this;
        }

        /** Told of every call that C refuses, of which the caller gets an exception too. */
        public Options log(Log to) {
            log = to;
            return this;
        }
    }

    /** Gets a line for each failure, on the thread that it happens on. It must not call the model. */
    public interface Log {
        void log(String message);
    }

    private final long functions;
    private final Handle handle;
    private final int maxTokens;
    private final List<TensorInfo> inputs;
    private final List<TensorInfo> outputs;
    private final ByteBuffer tensors; // the C interface's view of the buffers; used under the handle's lock

    private Model(long functions, Options options) {
        this.functions = functions;
        maxTokens = Native.tokens(functions);
        inputs = describe(functions, false);
        outputs = describe(functions, true);
        tensors = ByteBuffer.allocateDirect((inputs.size() + outputs.size()) * Native.TENSOR_BYTES);
        handle = new Handle(this, functions, options);
    }

    /**
     * Opens the model in {@code lib<name>.so}, found as System.loadLibrary finds it: on Android in the app.
     *
     * @throws ModelException if there is no such library, or it cannot work here
     */
    public static Model open(String name) {
        return open(name, new Options());
    }

    /**
     * As {@link #open(String)}, with options.
     *
     * @throws IllegalArgumentException if an option is out of range
     */
    public static Model open(String name, Options options) {
        return new Model(Native.load(name), options);
    }

    /** As {@link #open(String, Options)}, with the library's file. */
    public static Model open(File library, Options options) {
        return new Model(Native.load(library), options);
    }

    private static List<TensorInfo> describe(long functions, boolean output) {
        List<TensorInfo> result = new ArrayList<>();
        long[] facts = new long[9];
        ByteBuffer name;
        while ((name = Native.tensor(functions, output, result.size(), facts)) != null) {
            int[] shape = new int[(int) facts[1]];
            for (int i = 0; i < shape.length; i++) {
                shape[i] = Math.toIntExact(facts[2 + i]);
            }
            TensorInfo.Type type = TensorInfo.Type.values()[(int) facts[0] - 1];
            result.add(new TensorInfo(Native.decode(name), type, shape, (int) facts[6], facts[7], facts[8]));
        }
        return Collections.unmodifiableList(result);
    }

    /** The inputs, in the order in which {@link #run} takes them. */
    public List<TensorInfo> inputs() {
        return inputs;
    }

    /** The outputs, in the order in which {@link #run} takes them. */
    public List<TensorInfo> outputs() {
        return outputs;
    }

    /** The longest sequence. */
    public int maxTokens() {
        return maxTokens;
    }

    /** Buffers for the inputs of the longest sequence. Reuse them: direct buffers are slow to make. */
    public ByteBuffer[] allocateInputs() {
        return allocate(inputs);
    }

    /** Buffers for the outputs of the longest sequence. */
    public ByteBuffer[] allocateOutputs() {
        return allocate(outputs);
    }

    private static ByteBuffer[] allocate(List<TensorInfo> infos) {
        ByteBuffer[] buffers = new ByteBuffer[infos.size()];
        for (int i = 0; i < buffers.length; i++) {
            buffers[i] = infos.get(i).allocate();
        }
        return buffers;
    }

    /** {@link #run(int, ByteBuffer[], ByteBuffer[])} for the longest sequence. */
    public void run(ByteBuffer[] inputs, ByteBuffer[] outputs) {
        run(maxTokens, inputs, outputs);
    }

    /**
     * One inference. Buffers are direct, in the byte order of this machine, and nothing is copied: a tensor begins at
     * its buffer's position, which stays as it is. There may be more bytes than {@link TensorInfo#bytes(int)}; they are
     * neither read nor written.
     *
     * @param tokens the length of the sequence, 1 to {@link #maxTokens}: shorter ones cost less and need no padding
     * @throws IllegalArgumentException if a buffer or an id does not fit; the outputs are then as they were
     * @throws IllegalStateException if the model is closed
     */
    public void run(int tokens, ByteBuffer[] inputs, ByteBuffer[] outputs) {
        requireTokens(tokens);
        ByteBuffer[] views = new ByteBuffer[this.inputs.size() + this.outputs.size()];
        view(this.inputs, inputs, false, tokens, views, 0);
        view(this.outputs, outputs, true, tokens, views, this.inputs.size());
        handle.run(tokens, views, tensors);
    }

    /**
     * Tokenizes one text, or two, and runs at just their length: {@code [CLS] text [SEP] pair [SEP]}, truncated to
     * {@link #maxTokens} if need be, the longer text first. For a model that was built with {@code --vocab}.
     *
     * @param pair the second text, or null
     * @param outputs as in {@link #run(int, ByteBuffer[], ByteBuffer[])}, with room for the longest sequence
     * @return the number of tokens
     * @throws ModelException if the model was built without a vocabulary
     */
    public int runText(String text, String pair, ByteBuffer[] outputs) {
        Objects.requireNonNull(text, "text");
        ByteBuffer[] views = new ByteBuffer[this.outputs.size()];
        view(this.outputs, outputs, true, maxTokens, views, 0);
        return handle.runText(Native.encode(text), Native.encode(pair), views, tensors);
    }

    /** The ids of a text, or of two, as {@link #runText} gives them to the model. */
    public long[] tokenize(String text, String pair) {
        ByteBuffer first = Native.encode(Objects.requireNonNull(text, "text"));
        ByteBuffer second = Native.encode(pair);
        ByteBuffer ids = ByteBuffer.allocateDirect(Long.BYTES * maxTokens).order(ByteOrder.nativeOrder());
        ByteBuffer segments = ByteBuffer.allocateDirect(Long.BYTES * maxTokens);
        int count = Native.tokenize(functions, first, Native.length(first), second, Native.length(second),
                maxTokens, ids, segments);
        long[] result = new long[Native.checkCount(count, functions, 0)];
        ids.asLongBuffer().get(result);
        return result;
    }

    /** The size of the vocabulary, or 0 if the model was built without one. */
    public int vocabularySize() {
        return Native.pieces(functions);
    }

    /**
     * The piece of the vocabulary with this id, "##" and all.
     *
     * @throws IllegalArgumentException if there is none
     */
    public String token(int id) {
        ByteBuffer piece = Native.token(functions, id);
        if (piece == null) {
            throw new IllegalArgumentException("there is no piece " + id + ": the vocabulary has " + vocabularySize());
        }
        return Native.decode(piece);
    }

    /** The number of C's enum POCKETBERT_CLASSIFY and so on. */
    private static final int CLASSIFY = 1;
    private static final int ENTITIES = 2;
    private static final int FILL = 3;
    private static final int EMBED = 4;
    private static final int ANSWER = 5;
    private static final int LABEL_BYTES = 8;
    private static final int ANSWER_BYTES = 24;
    private static final int FLOAT32 = 1;
    private static final int INT8 = 5;
    private static final int BITS = 6;
    private static final int ENTITY_BYTES = 32;

    private long fact(int index) {
        long[] facts = new long[5];
        Native.facts(functions, facts);
        return facts[index];
    }

    private static final String[] TASKS = {"", "classify", "entities", "fill", "embed", "answer"};

    /** What the model is for: the name of the method to ask, or "" where it was built without a task. */
    public String task() {
        int task = (int) fact(0);
        return task < TASKS.length ? TASKS[task] : "";
    }

    /**
     * How text is read, what for, and which of the model's files says so, as JSON with the names of manifest.json:
     * task, activation (of a problem's type), pooling, normalized, and vocabulary with its settings.
     */
    public String facts() {
        return Native.decode(Native.text(fact(4)));
    }

    /** The tokens of the longest text that is read whole, special pieces included; 0 without a tokenizer. */
    public int maxTextTokens() {
        return (int) fact(3);
    }

    private static ByteBuffer memory(long bytes) {
        return ByteBuffer.allocateDirect(Math.toIntExact(Math.max(bytes, 1))).order(ByteOrder.nativeOrder());
    }

    /** The tokens of a text, or of two, with where they stand: of the window after {@code skip} tokens of the last text. */
    public Tokens window(String text, String pair, int maxTokens, int skip) {
        return encode(text, pair, maxTokens, true, skip);
    }

    /** The tokens of a text, or of two, at most {@code maxTokens}: the longer text gives way first. */
    public Tokens encode(String text, String pair, int maxTokens) {
        return encode(text, pair, maxTokens, false, 0);
    }

    private Tokens encode(String text, String pair, int maxTokens, boolean windows, int skip) {
        ByteBuffer first = Native.encode(Objects.requireNonNull(text, "text"));
        ByteBuffer second = Native.encode(pair);
        ByteBuffer memory = memory(37L * Math.max(maxTokens, 0));
        long result = Native.encode(functions, first, Native.length(first), second, Native.length(second), maxTokens,
                windows, skip, memory);
        int count = Native.checkTask(result, functions, 0);
        return new Tokens(memory, maxTokens, count, (int) (result >>> 32), text, pair);
    }

    /** The labels of a model that classifies, or finds entities, by their numbers. */
    public List<String> labels() {
        List<String> result = new ArrayList<>();
        for (int i = 0; i < fact(1); i++) {
            result.add(Native.decode(Native.label(functions, i)));
        }
        return result;
    }

    private int task(int task, String text, String pair, TaskOptions options, ByteBuffer memory, int room, int each) {
        Objects.requireNonNull(text, "text");
        return handle.task(task, text, pair, options.toBuffer(labels()), memory, room, each);
    }

    private int labelRoom(TaskOptions options) {
        int all = Math.max((int) fact(1), 1);
        return options.top > 0 ? Math.min(options.top, all) : all;
    }

    private List<Label> labelsAt(ByteBuffer memory, int first, int count) {
        List<Label> result = new ArrayList<>();
        for (int i = first; i < first + count && memory.getInt(LABEL_BYTES * i) >= 0; i++) {
            ByteBuffer name = Native.label(functions, memory.getInt(LABEL_BYTES * i));
            result.add(new Label(Native.decode(name), memory.getFloat(LABEL_BYTES * i + 4)));
        }
        return result;
    }

    /**
     * The labels of a text, best first. As in every task, a text of more tokens than the model takes is an exception
     * unless options say otherwise.
     *
     * @throws IllegalArgumentException if the text is too long
     * @throws ModelException if the model is for another task
     */
    public List<Label> classify(String text) {
        return classify(text, new TaskOptions());
    }

    /** The same with options. */
    public List<Label> classify(String text, TaskOptions options) {
        return classify(text, null, options);
    }

    /**
     * The labels of a text, or of a pair, best first.
     *
     * @param pair the second text, or null
     * @param truncate whether a text of more tokens than the model takes is cut off; else that is an exception
     * @throws ModelException if the model is for another task
     */
    public List<Label> classify(String text, String pair, boolean truncate) {
        return classify(text, pair, TaskOptions.truncating(truncate));
    }

    /** The same with options. */
    public List<Label> classify(String text, String pair, TaskOptions options) {
        int room = labelRoom(options);
        ByteBuffer memory = memory((long) LABEL_BYTES * room);
        return labelsAt(memory, 0, task(CLASSIFY, text, pair, options, memory, room, 0));
    }

    /** The labels of many texts: several at once, and in one run. */
    public List<List<Label>> classifyAll(List<String> texts) {
        return classifyAll(texts, new TaskOptions());
    }

    /** The same with options. */
    public List<List<Label>> classifyAll(List<String> texts, TaskOptions options) {
        return classifyAll(texts, null, options);
    }

    /**
     * The same of many pairs.
     *
     * @param pairs the second texts, as many as there are first ones; null for one that has none
     */
    public List<List<Label>> classifyAll(List<String> texts, List<String> pairs, TaskOptions options) {
        if (pairs != null && pairs.size() != texts.size()) {
            throw new IllegalArgumentException(texts.size() + " texts and " + pairs.size() + " pairs: give as many");
        }
        int room = labelRoom(options);
        ByteBuffer memory = memory((long) LABEL_BYTES * room * texts.size());
        tasks(CLASSIFY, texts, pairs, options, memory, room);
        List<List<Label>> result = new ArrayList<>();
        for (int i = 0; i < texts.size(); i++) {
            result.add(labelsAt(memory, i * room, room));
        }
        return result;
    }

    private void tasks(
            int task, List<String> texts, List<String> pairs, TaskOptions options, ByteBuffer memory, int each) {
        List<String> all = new ArrayList<>();
        for (int i = 0; i < texts.size(); i++) {
            all.add(Objects.requireNonNull(texts.get(i), "text"));
            all.add(pairs == null ? null : pairs.get(i));
        }
        handle.tasks(task, all, options.toBuffer(labels()), memory, each);
    }

    /** A text as a vector. */
    public float[] embed(String text) {
        return embed(text, new TaskOptions());
    }

    /** A text as a vector; {@code truncate} as in {@link #classify(String, String, boolean)}. */
    public float[] embed(String text, boolean truncate) {
        return embed(text, TaskOptions.truncating(truncate));
    }

    /** The same with options. */
    public float[] embed(String text, TaskOptions options) {
        int size = (int) fact(2);
        ByteBuffer memory = memory(4L * size);
        task(EMBED, text, null, options, memory, size, 0);
        float[] vector = new float[size];
        memory.asFloatBuffer().get(vector);
        return vector;
    }

    /** The vectors of many texts: several at once, and in one run. */
    public float[][] embedAll(List<String> texts) {
        return embedAll(texts, new TaskOptions());
    }

    /** The same with options. */
    public float[][] embedAll(List<String> texts, TaskOptions options) {
        int size = (int) fact(2);
        ByteBuffer memory = memory(4L * size * texts.size());
        tasks(EMBED, texts, null, options, memory, size);
        float[][] vectors = new float[texts.size()][size];
        for (int i = 0; i < vectors.length; i++) {
            memory.position(4 * size * i);
            memory.slice().order(ByteOrder.nativeOrder()).asFloatBuffer().get(vectors[i]);
        }
        return vectors;
    }

    /** A vector in a quarter of its bytes: each element in steps of a 127th of the largest one's size. */
    public byte[] toInt8(float[] vector) {
        return convert(vector, INT8, vector.length);
    }

    /** A bit for each element of a vector, the first in the first byte's highest: whether it is above 0. */
    public byte[] toBits(float[] vector) {
        return convert(vector, BITS, (vector.length + 7) / 8);
    }

    private byte[] convert(float[] vector, int type, int bytes) {
        ByteBuffer from = memory(4L * vector.length);
        from.asFloatBuffer().put(vector);
        ByteBuffer memory = memory(bytes);
        Native.check(Native.convert(functions, from, vector.length, type, memory), functions, 0);
        byte[] result = new byte[bytes];
        memory.get(result);
        return result;
    }

    /** How alike two vectors are, from -1 to 1: the cosine of the angle between them. */
    public float cosine(float[] a, float[] b) {
        ByteBuffer first = memory(4L * a.length);
        ByteBuffer second = memory(4L * b.length);
        first.asFloatBuffer().put(a);
        second.asFloatBuffer().put(b);
        return cosine(first, second, a.length, b.length, a.length, FLOAT32);
    }

    /** The same of two that {@link #toInt8} made. */
    public float cosineOfInt8(byte[] a, byte[] b) {
        return cosine(direct(a), direct(b), a.length, b.length, a.length, INT8);
    }

    /** The same of two that {@link #toBits} made of vectors of this model: of vectors of 1 and -1. */
    public float cosineOfBits(byte[] a, byte[] b) {
        return cosine(direct(a), direct(b), a.length, b.length, (int) Math.min(8L * a.length, fact(2)), BITS);
    }

    private float cosine(ByteBuffer a, ByteBuffer b, int aLength, int bLength, int size, int type) {
        if (aLength != bLength) {
            throw new IllegalArgumentException("vectors have " + aLength + " and " + bLength + " elements");
        }
        return Native.cosine(functions, a, b, size, type);
    }

    private static ByteBuffer direct(byte[] bytes) {
        ByteBuffer result = memory(bytes.length);
        result.put(bytes);
        return result;
    }

    /** What is named in a text, in its order. */
    public List<Entity> entities(String text) {
        return entities(text, new TaskOptions());
    }

    /** What is named in a text, in its order; {@code truncate} as in {@link #classify(String, String, boolean)}. */
    public List<Entity> entities(String text, boolean truncate) {
        return entities(text, TaskOptions.truncating(truncate));
    }

    /** The same with options. */
    public List<Entity> entities(String text, TaskOptions options) {
        int[] places = Tokens.places(Objects.requireNonNull(text, "text"));
        int room = Math.max(options.readsWindows() ? places.length : maxTextTokens(), 1);
        ByteBuffer memory = memory((long) ENTITY_BYTES * room);
        int count = Math.min(task(ENTITIES, text, null, options, memory, room, 0), room);
        List<Entity> result = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            int at = ENTITY_BYTES * i;
            result.add(new Entity(Native.decode(Native.text(memory.getLong(at))), memory.getFloat(at + 8),
                    places[(int) memory.getLong(at + 16)], places[(int) memory.getLong(at + 24)]));
        }
        return result;
    }

    /** For each mask in a text the five most probable pieces, best first. */
    public List<List<Label>> fill(String text) {
        return fill(text, 5, new TaskOptions());
    }

    /**
     * For each mask in a text the {@code top} most probable pieces, best first; {@code truncate} as in
     * {@link #classify(String, String, boolean)}.
     */
    public List<List<Label>> fill(String text, int top, boolean truncate) {
        return fill(text, top, TaskOptions.truncating(truncate));
    }

    /** The same with options. */
    public List<List<Label>> fill(String text, int top, TaskOptions options) {
        if (top < 1) {
            throw new IllegalArgumentException("top is " + top + ": ask for one piece at least");
        }
        int each = Math.min(top, Math.max(vocabularySize(), 1));
        int masks = Math.max(maxTextTokens(), 1);
        ByteBuffer memory;
        int room;
        do {
            room = Math.multiplyExact(each, masks);
            memory = memory((long) LABEL_BYTES * room);
            masks = task(FILL, text, null, options, memory, room, each);
        } while (masks > room / each);
        List<List<Label>> result = new ArrayList<>();
        for (int i = 0; i < masks; i++) {
            List<Label> pieces = new ArrayList<>();
            for (int k = i * each; k < (i + 1) * each && memory.getInt(LABEL_BYTES * k) >= 0; k++) {
                pieces.add(new Label(token(memory.getInt(LABEL_BYTES * k)), memory.getFloat(LABEL_BYTES * k + 4)));
            }
            result.add(pieces);
        }
        return result;
    }

    /** The best answer to a question that stands in a context of any length; of an empty context none. */
    public List<Answer> answer(String question, String context) {
        return answer(question, context, 1, new TaskOptions());
    }

    /** The {@code top} best answers to a question that stand in a context of any length, best first. */
    public List<Answer> answer(String question, String context, int top, TaskOptions options) {
        if (top < 1) {
            throw new IllegalArgumentException("top is " + top + ": ask for one answer at least");
        }
        ByteBuffer memory = memory((long) ANSWER_BYTES * top);
        int[] places = Tokens.places(Objects.requireNonNull(context, "context"));
        int count = task(ANSWER, question, context, options, memory, top, 0);
        List<Answer> result = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            int at = ANSWER_BYTES * i;
            int begin = places[(int) memory.getLong(at + 8)];
            int end = places[(int) memory.getLong(at + 16)];
            result.add(new Answer(context.substring(begin, end), memory.getFloat(at), begin, end));
        }
        return result;
    }

    /** Whether runs, the one under way among them, end with a ModelException, until it is set back. From any thread. */
    public void cancel(boolean value) {
        handle.cancel(value);
    }

    private void requireTokens(int tokens) {
        boolean fixed = true;
        for (TensorInfo info : inputs) {
            fixed &= info.tokenAxis() < 0;
        }
        if (tokens < 1 || tokens > maxTokens || (fixed && tokens != maxTokens)) {
            String range = fixed ? "just " + maxTokens : "1 to " + maxTokens;
            throw new IllegalArgumentException(tokens + " tokens: the model takes " + range);
        }
    }

    /** Checks {@code buffers} and puts a view of each into {@code views}, which no other thread can move or shorten. */
    private static void view(
            List<TensorInfo> infos, ByteBuffer[] buffers, boolean output, int tokens, ByteBuffer[] views, int offset) {
        String what = output ? "outputs" : "inputs";
        Objects.requireNonNull(buffers, what);
        if (buffers.length != infos.size()) {
            throw new IllegalArgumentException(buffers.length + " " + what + ": the model has " + infos.size());
        }
        for (int i = 0; i < buffers.length; i++) {
            ByteBuffer buffer = buffers[i];
            TensorInfo info = infos.get(i);
            if (buffer == null || !buffer.isDirect()) {
                throw new IllegalArgumentException(info.name() + ": not a direct buffer (see TensorInfo.allocate)");
            }
            if (buffer.order() != ByteOrder.nativeOrder()) {
                throw new IllegalArgumentException(info.name() + ": the buffer's order is not ByteOrder.nativeOrder()");
            }
            if (output && buffer.isReadOnly()) {
                throw new IllegalArgumentException(info.name() + ": an output's buffer must not be read-only");
            }
            ByteBuffer view = buffer.slice();
            if (view.capacity() < info.bytes(tokens)) {
                throw new IllegalArgumentException(info.name() + ": the buffer has " + view.capacity()
                        + " bytes from position to limit, the tensor " + info.bytes(tokens));
            }
            views[offset + i] = view;
        }
    }

    /** Frees the model, once a run under way has ended. Further runs throw; closing again does nothing. */
    @Override
    public void close() {
        handle.close();
    }
}
