import com.pocketbert.Answer;
import com.pocketbert.Entity;
import com.pocketbert.Label;
import com.pocketbert.Model;
import com.pocketbert.TaskOptions;
import java.io.File;
import java.util.List;

/** What any model says of a text: java -cp pocketbert.jar Ask.java LIBRARY "the capital of [MASK] is paris" */
public final class Ask {
    private static final int BEST = 5;

    public static void main(String[] args) {
        if (args.length < 2) {
            System.err.println("usage: Ask LIBRARY TEXT [OTHER]");
            System.exit(2);
        }
        try (Model model = Model.open(new File(args[0]), new Model.Options())) {
            ask(model, args[1], args.length > 2 ? args[2] : null);
        }
    }

    private static void ask(Model model, String text, String other) {
        switch (model.task()) {
            case "classify":
                model.classify(text, other, false).forEach(Ask::print);
                break;
            case "entities":
                for (Entity entity : model.entities(text, false)) {
                    print(entity.score(), entity.name() + ": " + text.substring(entity.begin(), entity.end()));
                }
                break;
            case "fill": // a list for each mask
                for (List<Label> pieces : model.fill(text, BEST, false)) {
                    pieces.forEach(Ask::print);
                }
                break;
            case "embed":
                float[] vector = model.embed(text, false);
                System.out.println(vector.length + " numbers");
                if (other != null) {
                    System.out.printf("%8.3f  %s%n", similarity(vector, model.embed(other, false)), other);
                }
                break;
            case "answer":
                if (other == null) {
                    throw new IllegalArgumentException("give the question and the text that answers it");
                }
                for (Answer answer : model.answer(text, other, BEST, new TaskOptions())) {
                    print(answer.score(), answer.text());
                }
                break;
            default:
                throw new IllegalArgumentException("the model has no task that this program knows");
        }
    }

    private static void print(Label label) {
        print(label.score(), label.name());
    }

    private static void print(float score, String name) {
        System.out.printf("%8.3f  %s%n", score, name);
    }

    /** The cosine of the angle between two vectors. */
    private static double similarity(float[] a, float[] b) {
        double product = 0;
        double squaresA = 0;
        double squaresB = 0;
        for (int i = 0; i < a.length; i++) {
            product += (double) a[i] * b[i];
            squaresA += (double) a[i] * a[i];
            squaresB += (double) b[i] * b[i];
        }
        return product / Math.sqrt(squaresA * squaresB);
    }
}
