import com.pocketbert.Model;
import java.io.File;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.util.PriorityQueue;

/** The likeliest words for a gap: java -cp pocketbert.jar FillMask.java LIBRARY "the capital of [MASK] is paris" */
public final class FillMask {
    private static final int BEST = 5;

    public static void main(String[] args) {
        if (args.length != 2) {
            System.err.println("usage: FillMask LIBRARY TEXT, where TEXT has a [MASK]");
            System.exit(2);
        }
        try (Model model = Model.open(new File(args[0]), new Model.Options())) {
            fill(model, args[1]);
        }
    }

    private static void fill(Model model, String text) {
        int gap = indexOf(model.tokenize(text, null), model.tokenize("[MASK]", null)[1]);
        if (gap < 0) {
            throw new IllegalArgumentException("there is no [MASK] in: " + text);
        }
        ByteBuffer[] outputs = model.allocateOutputs(); // of a model built with --head mlm: scores [1, tokens, words]
        model.runText(text, null, outputs);
        int words = model.outputs().get(0).shape()[2];
        FloatBuffer scores = outputs[0].asFloatBuffer();
        PriorityQueue<Integer> best = new PriorityQueue<>((a, b) -> Float.compare(
                scores.get(gap * words + a), scores.get(gap * words + b)));
        for (int word = 0; word < model.vocabularySize(); word++) {
            best.add(word);
            if (best.size() > BEST) {
                best.remove();
            }
        }
        StringBuilder lines = new StringBuilder();
        while (!best.isEmpty()) {
            int word = best.remove();
            lines.insert(0, String.format("%8.3f  %s%n", scores.get(gap * words + word), model.token(word)));
        }
        System.out.print(lines);
    }

    private static int indexOf(long[] ids, long id) {
        for (int i = 0; i < ids.length; i++) {
            if (ids[i] == id) {
                return i;
            }
        }
        return -1;
    }
}
