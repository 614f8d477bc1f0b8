import com.pocketbert.Entity;
import com.pocketbert.Label;
import com.pocketbert.Model;
import com.pocketbert.Tokens;
import java.io.File;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
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

    private static String line(Model model, String task, String text) {
        StringBuilder line = new StringBuilder();
        if (task.equals("classify")) {
            return bits(model.classify(text, null, true));
        }
        if (task.equals("embed")) {
            for (float value : model.embed(text, true)) {
                line.append(Float.floatToRawIntBits(value)).append(' ');
            }
        } else if (task.equals("fill")) {
            for (List<Label> pieces : model.fill(text + " [MASK]", 3, true)) {
                line.append(bits(pieces));
            }
        } else if (task.equals("entities")) {
            for (Entity entity : model.entities(text, true)) {
                line.append(entity.name()).append(' ').append(Float.floatToRawIntBits(entity.score())).append(' ');
                line.append(text, entity.begin(), entity.end()).append('|');
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

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(System.out, true, "UTF-8");
        try (Model model = Model.open(new File(args[2]), new Model.Options())) {
            for (String text : Files.readAllLines(Paths.get(args[0]), StandardCharsets.UTF_8)) {
                out.println(line(model, args[1], text));
            }
            String tooLong = new String(new char[400]).replace("\0", "a ");
            for (boolean classify : new boolean[] {true, false}) {
                try {
                    out.println(classify ? bits(model.classify(tooLong, null, false)) : model.embed(tooLong, false).length);
                } catch (RuntimeException error) {
                    out.println(error.getClass().getSimpleName());
                }
            }
        }
    }
}
