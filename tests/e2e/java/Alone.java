/** Loads a library where there is no com.pocketbert: an application may use the C interface from code of its own. */
public final class Alone {
    public static void main(String[] args) {
        System.load(args[0]);
        System.out.println("loaded");
    }
}
