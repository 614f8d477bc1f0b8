import com.pocketbert.Answer;
import com.pocketbert.Entity;
import com.pocketbert.Label;
import com.pocketbert.Model;
import com.pocketbert.TaskOptions;
import java.io.File;
import java.util.List;

/** What any model says of a text: java -cp pocketbert.jar Ask.java LIBRARY "the capital of [MASK] is paris" */
public final class Ask {
    private static final int BEST = 3;

    public static void main(String[] args) {
        if (args.length < 2) {
            System.err.println("usage: Ask LIBRARY TEXT [OTHER]");
            System.exit(2);
        }
        try (Model model = Model.open(new File(args[0]), new Model.Options())) {
            ask(model, args[1], args.length > 2 ? args[2] : null);
        } catch (RuntimeException error) {
            System.err.println("Ask: " + error.getMessage());
            System.exit(1);
        }
    }

    private static void ask(Model model, String text, String other) {
        switch (model.task()) {
            case "classify":
                model.classify(text, other, false).forEach(Ask::print);
                break;
            case "entities":
                for (Entity entity : model.entities(text)) {
                    print(entity.score(), entity.name() + ": " + text.substring(entity.begin(), entity.end()));
                }
                break;
            case "fill": // a list for each mask
                List<List<Label>> masks = model.fill(text);
                if (masks.isEmpty()) {
                    throw new IllegalArgumentException("there is no [MASK] (or <mask>) in the text");
                }
                masks.forEach(pieces -> pieces.forEach(Ask::print));
                break;
            case "embed":
                float[] vector = model.embed(text);
                System.out.println(vector.length + " numbers");
                if (other != null) {
                    System.out.printf("%8.3f  %s%n", model.cosine(vector, model.embed(other)), other);
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
}
