import com.pocketbert.Model;
import com.pocketbert.ModelException;
import com.pocketbert.TensorInfo;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/** What test_java.py has a Java virtual machine do: java Checks COMMAND LIBRARY [ARGUMENT...]; `run` has test_cpp.py. */
public final class Checks {
    private static final int THREADS = 8;

    public static void main(String[] args) throws Exception {
        File library = new File(args[1]);
        switch (args[0]) {
            case "describe":
                describe(library);
                break;
            case "run":
                run(library, args[3], Paths.get(args[4]), Paths.get(args[5]));
                break;
            case "text":
                text(library, Paths.get(args[2]), Paths.get(args[3]));
                break;
            case "no vocabulary":
                noVocabulary(library);
                break;
            case "refusals":
                refusals(library);
                break;
            case "garbage":
                garbage(library);
                break;
            case "threads":
                threads(library, Integer.parseInt(args[2]));
                break;
            case "closing":
                closing(library);
                break;
            case "inherited":
                inherited(library, Paths.get(args[2]));
                break;
            case "dropped":
                dropped(library);
                break;
            case "two":
                two(library, new File(args[2]));
                break;
            case "scales":
                scales(args);
                scales(args);
                break;
            case "strangers":
                for (int i = 1; i < args.length; i++) {
                    File file = new File(args[i]);
                    report(file.getName().replaceAll("^lib|.so$", ""), () -> open(file).close());
                }
                break;
            case "name":
                System.loadLibrary(args[1]); // as an application may do by itself
                Model.open(args[1]).close();
                System.out.println("opened");
                break;
            default:
                throw new IllegalArgumentException(args[0]);
        }
    }

    private static Model open(File library) {
        return Model.open(library, new Model.Options().threads(1));
    }

    private static void describe(File library) {
        try (Model model = open(library)) {
            System.out.println(model.maxTokens());
            model.inputs().forEach(System.out::println);
            model.outputs().forEach(System.out::println);
        }
    }

    /** Every sample in the file `from` (inputs in order, sample after sample), for sequences of `tokens`. */
    private static void run(File library, String threads, Path from, Path to) throws IOException {
        Model.Options options = new Model.Options().threads(Integer.parseInt(threads)).cores(0);
        try (Model model = Model.open(library, options)) {
            ByteBuffer samples = ByteBuffer.wrap(Files.readAllBytes(from)).order(ByteOrder.nativeOrder());
            ByteBuffer results = ByteBuffer.allocate(1 << 24);
            ByteBuffer[] inputs = model.allocateInputs();
            ByteBuffer[] outputs = model.allocateOutputs();
            while (samples.hasRemaining()) {
                int tokens = (int) samples.getLong();
                for (int i = 0; i < inputs.length; i++) {
                    byte[] bytes = new byte[model.inputs().get(i).bytes(tokens)];
                    samples.get(bytes);
                    inputs[i].clear();
                    inputs[i].put(bytes).flip();
                }
                model.run(tokens, inputs, outputs);
                for (int i = 0; i < outputs.length; i++) {
                    ByteBuffer output = outputs[i].duplicate();
                    output.limit(model.outputs().get(i).bytes(tokens));
                    results.put(output);
                }
            }
            results.flip();
            Files.write(to, Arrays.copyOf(results.array(), results.limit()));
        }
    }

    /** Prints the ids of every line in the file `from`, and writes the outputs to `to`; a tab divides a text and its pair. */
    private static void text(File library, Path from, Path to) throws IOException {
        String[] lines = new String(Files.readAllBytes(from), StandardCharsets.UTF_8).split("\n", -1);
        ByteBuffer results = ByteBuffer.allocate(1 << 24);
        try (Model model = open(library)) {
            ByteBuffer[] outputs = model.allocateOutputs();
            for (String line : lines) {
                String[] parts = line.split("\t", -1);
                String pair = parts.length > 1 ? parts[1] : null;
                long[] ids = model.tokenize(parts[0], pair);
                StringBuilder pieces = new StringBuilder();
                for (long id : ids) {
                    pieces.append(id).append(' ').append(model.token((int) id)).append(' ');
                }
                System.out.write(pieces.append('\n').toString().getBytes(StandardCharsets.UTF_8));
                int tokens = model.runText(parts[0], pair, outputs);
                if (tokens != ids.length) {
                    throw new IllegalStateException(tokens + " tokens, but " + ids.length + " ids");
                }
                for (int i = 0; i < outputs.length; i++) {
                    ByteBuffer output = outputs[i].duplicate();
                    output.limit(model.outputs().get(i).bytes(tokens));
                    results.put(output);
                }
            }
            report("null", () -> model.runText(null, null, outputs));
            report("short output", () -> model.runText("a", null, new ByteBuffer[] {outputs[1], outputs[1]}));
            report("no piece", () -> model.token(model.vocabularySize()));
            report("negative piece", () -> model.token(-1));
            report("half a character", () -> model.runText("\ud83d", "\ude00", outputs));
            char[] million = new char[1 << 20];
            Arrays.fill(million, 'a');
            report("a million letters", () -> model.runText(new String(million), null, outputs));
        }
        results.flip();
        Files.write(to, Arrays.copyOf(results.array(), results.limit()));
    }

    private static void noVocabulary(File library) {
        try (Model model = open(library)) {
            System.out.println(model.vocabularySize());
            report("run", () -> model.runText("a", null, model.allocateOutputs()));
            report("tokenize", () -> model.tokenize("a", null));
            report("token", () -> model.token(0));
        }
    }

    private interface Attempt {
        void run() throws Exception;
    }

    /** Prints what the attempt throws: `situation | exception | message`. */
    private static void report(String situation, Attempt attempt) {
        String outcome = "nothing | ";
        try {
            attempt.run();
        } catch (Throwable thrown) {
            outcome = thrown.getClass().getSimpleName() + " | " + thrown.getMessage();
        }
        System.out.println(situation + " | " + outcome);
    }

    private static ByteBuffer[] with(ByteBuffer[] buffers, int index, ByteBuffer other) {
        ByteBuffer[] result = buffers.clone();
        result[index] = other;
        return result;
    }

    private static void refusals(File library) {
        Model model = open(library);
        TensorInfo first = model.inputs().get(0);
        int most = model.maxTokens();
        int bytes = first.bytes();
        ByteBuffer[] inputs = model.allocateInputs();
        ByteBuffer[] outputs = model.allocateOutputs();
        report("fine", () -> model.run(inputs, outputs));
        report("no tokens", () -> model.run(0, inputs, outputs));
        report("negative tokens", () -> model.run(-5, inputs, outputs));
        report("too many tokens", () -> model.run(most + 1, inputs, outputs));
        report("heap input", () -> model.run(with(inputs, 0, ByteBuffer.allocate(bytes)), outputs));
        report("null input", () -> model.run(with(inputs, 0, null), outputs));
        report("no inputs", () -> model.run(new ByteBuffer[0], outputs));
        report("null inputs", () -> model.run(null, outputs));
        report("one output", () -> model.run(inputs, new ByteBuffer[] {outputs[0]}));
        report("other order", () -> model.run(with(inputs, 0, ByteBuffer.allocateDirect(bytes)), outputs));
        ByteBuffer shorter = inputs[0].duplicate().order(ByteOrder.nativeOrder());
        shorter.limit(bytes - 1);
        report("input too short", () -> model.run(with(inputs, 0, shorter), outputs));
        report("short is enough for fewer tokens", () -> model.run(most - 1, with(inputs, 0, shorter), outputs));
        ByteBuffer later = ByteBuffer.allocateDirect(bytes + 8).order(ByteOrder.nativeOrder());
        later.position(8);
        report("input behind a position", () -> model.run(with(inputs, 0, later), outputs));
        later.position(9);
        report("position too far", () -> model.run(with(inputs, 0, later), outputs));
        ByteBuffer odd = ByteBuffer.allocateDirect(bytes + 8).order(ByteOrder.nativeOrder());
        odd.position(4);
        report("misaligned", () -> model.run(with(inputs, 0, odd), outputs));
        ByteBuffer fixed = outputs[0].asReadOnlyBuffer().order(ByteOrder.nativeOrder());
        report("read-only output", () -> model.run(inputs, with(outputs, 0, fixed)));
        ByteBuffer constant = inputs[0].asReadOnlyBuffer().order(ByteOrder.nativeOrder());
        report("read-only input", () -> model.run(with(inputs, 0, constant), outputs));
        inputs[0].putLong(0, first.high());
        report("id outside its table", () -> model.run(inputs, outputs));
        inputs[0].putLong(0, 0);
        report("fine again", () -> model.run(inputs, outputs));
        report("all cores", () -> Model.open(library, new Model.Options().threads(2).cores(-1)).close());
        report("threads", () -> Model.open(library, new Model.Options().threads(65)));
        report("no such file", () -> Model.open(new File("/nowhere/libnothing.so"), new Model.Options()));
        report("no such name", () -> Model.open("nothing"));
        report("renamed", () -> Model.open(new File("/nowhere/model.bin"), new Model.Options()));
        model.close();
        model.close();
        report("closed", () -> model.run(inputs, outputs));
    }

    private static void garbage(File library) {
        Random random = new Random(1);
        int refused = 0;
        try (Model model = open(library)) {
            ByteBuffer[] inputs = model.allocateInputs();
            ByteBuffer[] outputs = model.allocateOutputs();
            for (int round = 0; round < 200; round++) {
                for (ByteBuffer input : inputs) {
                    byte[] bytes = new byte[input.capacity()];
                    random.nextBytes(bytes);
                    input.clear();
                    input.put(bytes).clear();
                }
                try {
                    model.run(1 + random.nextInt(model.maxTokens()), inputs, outputs);
                } catch (IllegalArgumentException expected) {
                    refused++;
                }
            }
        }
        System.out.println("refused " + refused);
    }

    /** Eight threads on one model and on eight, each with inputs of its own: the results are those of one thread. */
    private static void threads(File library, int runs) throws Exception {
        try (Model shared = open(library)) {
            everyone(thread -> work(shared, shared, thread, runs));
            everyone(thread -> {
                try (Model own = open(library)) {
                    return work(own, shared, thread, runs);
                }
            });
        }
        System.out.println("agreed");
    }

    private interface Work {
        Object of(int thread) throws Exception;
    }

    private static void everyone(Work work) throws InterruptedException, ExecutionException {
        ExecutorService pool = Executors.newFixedThreadPool(THREADS);
        List<Future<?>> futures = new ArrayList<>();
        for (int i = 0; i < THREADS; i++) {
            int thread = i;
            futures.add(pool.submit((Callable<Object>) () -> work.of(thread)));
        }
        for (Future<?> future : futures) {
            future.get();
        }
        pool.shutdown();
    }

    private static Object work(Model model, Model reference, int thread, int runs) {
        ByteBuffer[] inputs = model.allocateInputs();
        int tokens = 1 + thread % model.maxTokens();
        for (int i = 0; i < tokens; i++) {
            inputs[0].putLong(8 * i, 1 + (7 * thread + i) % (model.inputs().get(0).high() - 1));
            inputs[1].putLong(8 * i, 1);
        }
        ByteBuffer[] wanted = model.allocateOutputs();
        reference.run(tokens, inputs, wanted);
        ByteBuffer[] outputs = model.allocateOutputs();
        for (int i = 0; i < runs; i++) {
            model.run(tokens, inputs, outputs);
            if (!Arrays.equals(outputs, wanted)) {
                throw new IllegalStateException("thread " + thread + " got another result in run " + i);
            }
        }
        return null;
    }

    /** One thread closes what seven are running. */
    private static void closing(File library) throws Exception {
        for (int round = 0; round < 20; round++) {
            Model model = open(library);
            everyone(thread -> {
                ByteBuffer[] inputs = model.allocateInputs();
                ByteBuffer[] outputs = model.allocateOutputs();
                try {
                    for (int i = 0; thread > 0; i++) {
                        model.run(1, inputs, outputs);
                    }
                } catch (IllegalStateException closed) {
                    return null;
                }
                Thread.sleep(2);
                model.close();
                return null;
            });
        }
        System.out.println("closed");
    }

    /** From when `flag` exists, the library takes this process for a child of the one that opened the model. */
    private static void inherited(File library, Path flag) throws Exception {
        Model model = open(library);
        ByteBuffer[] inputs = model.allocateInputs();
        ByteBuffer[] outputs = model.allocateOutputs();
        report("before", () -> model.run(1, inputs, outputs));
        Files.createFile(flag);
        report("run", () -> model.run(1, inputs, outputs));
        report("text", () -> model.runText("a", null, outputs));
        report("close", model::close);
        report("its own", () -> {
            try (Model own = open(library)) {
                own.run(1, inputs, outputs);
            }
        });
    }

    /** Prints how many more threads the process has after fifty models of three were dropped without close(). */
    private static void dropped(File library) throws Exception {
        open(library).close();
        int before = threadCount();
        for (int i = 0; i < 50; i++) {
            Model.open(library, new Model.Options().threads(3)).maxTokens();
            System.gc();
            Thread.sleep(5);
        }
        System.out.println(threadCount() - before);
    }

    private static int threadCount() {
        return new File("/proc/self/task").list().length;
    }

    /** Two libraries in turn, by threads of both at once. */
    private static void two(File one, File other) throws Exception {
        try (Model first = open(one); Model second = open(other)) {
            System.out.println(first.outputs() + " " + second.outputs());
            everyone(thread -> {
                Model model = thread % 2 == 0 ? first : second;
                return work(model, model, thread, 20);
            });
        }
        System.out.println("agreed");
    }

    /** What the model in each library makes of 1. */
    private static void scales(String[] args) {
        StringBuilder results = new StringBuilder();
        for (int i = 1; i < args.length; i++) {
            try (Model model = open(new File(args[i]))) {
                ByteBuffer[] inputs = model.allocateInputs();
                ByteBuffer[] outputs = model.allocateOutputs();
                inputs[0].putFloat(0, 1);
                model.run(inputs, outputs);
                results.append(i > 1 ? " " : "").append(outputs[0].getFloat(0));
            }
        }
        System.out.println(results);
    }
}
