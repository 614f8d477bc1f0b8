import com.pocketbert.Answer;
import com.pocketbert.Entity;
import com.pocketbert.Label;
import com.pocketbert.Model;
import com.pocketbert.TaskOptions;
import com.pocketbert.Tokens;
import java.io.File;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** Tasks TEXTS TASK LIBRARY: what com.pocketbert says of each line of TEXTS. Scores as the bits of a float. */
public final class Tasks {
    private static String bits(List<Label> labels) {
        StringBuilder line = new StringBuilder();
        for (Label label : labels) {
            line.append(label.name()).append(' ').append(Float.floatToRawIntBits(label.score())).append(' ');
        }
        return line.toString();
    }

    private static TaskOptions inWindows(int maxTokens) {
        return new TaskOptions().longText(TaskOptions.LongText.WINDOWS).maxTokens(maxTokens).stride(3);
    }

    private static void append(StringBuilder line, float[] vector) {
        for (float value : vector) {
            line.append(Float.floatToRawIntBits(value)).append(' ');
        }
    }

    private static String line(Model model, String task, String text) {
        StringBuilder line = new StringBuilder();
        TaskOptions cut = new TaskOptions().longText(TaskOptions.LongText.TRUNCATE);
        if (task.equals("classify")) {
            line.append(bits(model.classify(text, null, true)));
            line.append(bits(model.classify("the", text, inWindows(12).allow("g\"ood", "bad").deny("bad"))));
            List<String> texts = Arrays.asList(text, "the", "");
            for (List<Label> labels : model.classifyAll(texts, cut)) {
                line.append(bits(labels));
            }
            for (List<Label> labels : model.classifyAll(texts, Arrays.asList("the", null, text), cut)) {
                line.append(bits(labels));
            }
        } else if (task.equals("embed")) {
            float[] vector = model.embed(text, true);
            append(line, vector);
            append(line, model.embed(text, inWindows(12)));
            for (float[] each : model.embedAll(Arrays.asList(text, "the model", ""), cut)) {
                append(line, each);
            }
            byte[] small = model.toInt8(vector);
            byte[] smallest = model.toBits(vector);
            for (byte value : small) {
                line.append(value).append(' ');
            }
            for (byte value : smallest) {
                line.append(value & 0xFF).append(' ');
            }
            float[] other = model.embed("the model", false);
            line.append(Float.floatToRawIntBits(model.cosine(vector, other))).append(' ');
            line.append(Float.floatToRawIntBits(model.cosineOfInt8(small, model.toInt8(other)))).append(' ');
            line.append(Float.floatToRawIntBits(model.cosineOfBits(smallest, model.toBits(other))));
        } else if (task.equals("fill")) {
            for (List<Label> pieces : model.fill(text + " [MASK]", 3, inWindows(12))) {
                line.append(bits(pieces));
            }
        } else if (task.equals("entities")) {
            for (Entity entity : model.entities(text, inWindows(0))) {
                line.append(entity.name()).append(' ').append(Float.floatToRawIntBits(entity.score())).append(' ');
                line.append(text, entity.begin(), entity.end()).append('|');
            }
        } else if (task.equals("answer")) {
            for (Answer answer : model.answer("the model?", text, 4, inWindows(14).noAnswer(true))) {
                line.append(answer.text()).append(' ').append(Float.floatToRawIntBits(answer.score())).append('|');
            }
        } else {
            Tokens tokens = model.encode(text, text, 20);
            for (int i = 0; i < tokens.ids().length; i++) {
                line.append(tokens.ids()[i]).append(' ').append(tokens.segments()[i]).append(' ').append(tokens.texts()[i]);
                line.append(' ').append(text, tokens.begins()[i], tokens.ends()[i]).append('|');
            }
            line.append(tokens.overflow()).append(' ').append(model.window(text, null, 6, 2).ids().length);
        }
        return line.toString();
    }

    private static String words(List<?> results) {
        return results.toString(); // labels, entities and answers print all that they hold
    }

    /** Whether the calls without options say what those with all of them say. */
    private static boolean shortFormsSayTheSame(Model model, String task) {
        String text = "the model", fill = "the [MASK] model";
        TaskOptions defaults = new TaskOptions();
        List<String> texts = Arrays.asList(text, "the");
        switch (task) {
            case "classify":
                TaskOptions top = new TaskOptions().top(1);
                return words(model.classify(text)).equals(words(model.classify(text, null, defaults)))
                        && words(model.classify(text, top)).equals(words(model.classify(text, null, top)))
                        && words(model.classifyAll(texts)).equals(words(model.classifyAll(texts, null, defaults)));
            case "embed":
                return Arrays.equals(model.embed(text), model.embed(text, defaults))
                        && Arrays.deepEquals(model.embedAll(texts), model.embedAll(texts, defaults));
            case "fill":
                return words(model.fill(fill)).equals(words(model.fill(fill, 5, defaults)));
            case "answer":
                return words(model.answer("who?", text)).equals(words(model.answer("who?", text, 1, defaults)));
            default:
                return words(model.entities(text)).equals(words(model.entities(text, defaults)));
        }
    }

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(System.out, true, "UTF-8");
        List<String> failures = new ArrayList<>();
        try (Model model = Model.open(new File(args[2]), new Model.Options().log(failures::add))) {
            for (String text : Files.readAllLines(Paths.get(args[0]), StandardCharsets.UTF_8)) {
                out.println(line(model, args[1], text));
            }
            out.println(model.facts());
            out.println(shortFormsSayTheSame(model, args[1]));
            String tooLong = new String(new char[400]).replace("\0", "a ");
            for (boolean classify : new boolean[] {true, false}) {
                try {
                    out.println(classify ? bits(model.classify(tooLong, null, false)) : model.embed(tooLong, false).length);
                } catch (RuntimeException error) {
                    out.println(error.getClass().getSimpleName() + failures.contains(error.getMessage()));
                }
            }
            try {
                model.classifyAll(Arrays.asList("a"), Arrays.asList("a", "b"), new TaskOptions());
            } catch (IllegalArgumentException error) {
                out.println(error.getMessage());
            }
        }
    }
}
