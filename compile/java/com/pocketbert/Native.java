package com.pocketbert;

import java.io.File;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/**
 * The way into C. Each library has the same native methods and registers them when it is loaded; they take the address
 * of any library's table of functions, so that any number of models can be loaded at once.
 */
final class Native {
    /** Of the C interface and of the methods below. */
    private static final int ABI = 1;

    /** sizeof(pocketbert_tensor). */
    static final int TENSOR_BYTES = 48;

    /** Status codes of the C interface up to here blame an argument. */
    private static final int LAST_ARGUMENT_ERROR = 3;

    /** Tables of functions by the prefix of their names in C, 0 for a library of another ABI. */
    private static final Map<String, Long> PUBLISHED = new ConcurrentHashMap<>();

    private static final Map<String, Long> LOADED = new ConcurrentHashMap<>();

    /** What the library that this thread is loading has published: its name alone does not tell it from another build. */
    private static final ThreadLocal<Long> ARRIVED = new ThreadLocal<>();

    private Native() {}

    static long load(String name) {
        return load(name, null);
    }

    static long load(File library) {
        String name = library.getName();
        if (!name.matches("lib.+\\.so")) {
            throw new ModelException(library + " is no model: its name must be lib<name>.so, as it was built");
        }
        return load(name.substring(3, name.length() - 3), library.getAbsolutePath());
    }

    /** The functions of the library at {@code path}, or where the system looks for {@code name}. Loads it only once. */
    private static long load(String name, String path) {
        String place = path == null ? name : path;
        Long functions = LOADED.get(place);
        if (functions != null) {
            return functions;
        }
        ARRIVED.remove();
        try {
            if (path == null) {
                System.loadLibrary(name);
            } else {
                System.load(path);
            }
        } catch (UnsatisfiedLinkError error) {
            throw new ModelException(place + " cannot be loaded: " + error.getMessage(), error);
        }
        functions = ARRIVED.get();
        if (functions == null) { // the application, or another thread, has loaded it before
            functions = PUBLISHED.get(name + "_");
        }
        if (functions == null) {
            throw new ModelException(place + " was loaded, but is not a model of this name: do not rename libraries");
        }
        if (functions == 0) {
            throw new ModelException(place + " and com.pocketbert come from different versions: take both from one build");
        }
        LOADED.put(place, functions);
        return functions;
    }

    /** Called by a library that is being loaded; whether its native methods are those below. */
    private static boolean publish(String prefix, long functions, int abi) {
        long usable = abi == ABI ? functions : 0;
        PUBLISHED.put(prefix, usable);
        ARRIVED.set(usable);
        return usable != 0;
    }

    /** Turns a status other than 0 into an exception with C's message. {@code model} may be 0. */
    static void check(int status, long functions, long model) {
        if (status == 0) {
            return;
        }
        String message = decode(error(functions, model));
        throw status <= LAST_ARGUMENT_ERROR ? new IllegalArgumentException(message) : new ModelException(message);
    }

    static String decode(ByteBuffer text) {
        CharBuffer characters = StandardCharsets.UTF_8.decode(text);
        return characters.toString();
    }

    /** The longest sequence. */
    static native int tokens(long functions);

    /**
     * The name of an input or output, or null where there are no more. {@code facts} receives type, rank, four
     * dimensions, token axis, low and high.
     */
    static native ByteBuffer tensor(long functions, boolean output, int index, long[] facts);

    /** A status; {@code model} receives the model's address. */
    static native int open(long functions, int threads, long cores, long[] model);

    /** A status. {@code buffers}: inputs, then outputs; {@code tensors}: TENSOR_BYTES for each of them. */
    static native int run(long functions, long model, int tokens, ByteBuffer[] buffers, ByteBuffer tensors);

    static native void close(long functions, long model);

    private static native ByteBuffer error(long functions, long model);
}
