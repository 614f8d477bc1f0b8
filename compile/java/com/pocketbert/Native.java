package com.pocketbert;

import java.io.File;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/**
 * The way into C. Each library has the same native methods and registers them when it is loaded; they take the address
 * of any library's table of functions, so that any number of models can be loaded at once.
 */
final class Native {
    /** JAVA_ABI in jni.c: of the methods below and of what they take. */
    private static final int ABI = 5;

    /** sizeof(pocketbert_tensor). */
    static final int TENSOR_BYTES = 48;

    /** Status codes of the C interface up to here blame an argument, and so does a text that is too long. */
    private static final int LAST_ARGUMENT_ERROR = 3;

    private static final int LONG = 12;

    /** Tables of functions by the prefix of their names in C, 0 for a library of another ABI. */
    private static final Map<String, Long> PUBLISHED = new ConcurrentHashMap<>();

    /** The same by where they were loaded from. */
    private static final Map<String, Long> LOADED = new HashMap<>();

    /** What this thread's library has published while it was loaded: another build of it may have the same name. */
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
    private static synchronized long load(String name, String path) {
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
        if (functions == null) { // the application itself has loaded it before
            functions = PUBLISHED.get(name + "_");
        }
        if (functions == null) {
            throw new ModelException(place + " was loaded, but is no model of PocketBERT (or was renamed)");
        }
        if (functions == 0) {
            throw new ModelException(place + " and com.pocketbert are of different versions: take both from one build");
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
        if (status != 0) {
            String message = decode(error(functions, model));
            throw status <= LAST_ARGUMENT_ERROR ? new IllegalArgumentException(message)
                    : new ModelException(message, status);
        }
    }

    /** The count in what a task returns, or an exception. */
    static int checkTask(long result, long functions, long model) {
        int status = result < 0 ? (int) -result : 0;
        if (status == LONG) {
            throw new IllegalArgumentException("the text has " + (-result >>> 32) + " tokens more than the model takes: "
                    + "shorten it, or let it be truncated or read in windows (TaskOptions.longText)");
        }
        check(status, functions, model);
        return (int) result;
    }

    /** Returns a count as it is, and takes a negative one for a status. */
    static int checkCount(int count, long functions, long model) {
        check(Math.max(-count, 0), functions, model);
        return count;
    }

    static String decode(ByteBuffer text) {
        return StandardCharsets.UTF_8.decode(text).toString();
    }

    /** UTF-8 in a direct buffer; null for null. */
    static ByteBuffer encode(String text) {
        if (text == null) {
            return null;
        }
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        ByteBuffer result = ByteBuffer.allocateDirect(bytes.length + 1); // the address of an empty one may be null
        result.put(bytes).flip();
        return result;
    }

    static int length(ByteBuffer text) {
        return text == null ? 0 : text.limit();
    }

    /** The longest sequence. */
    static native int tokens(long functions);

    /**
     * The name of an input or output, or null where there are no more. {@code facts} receives type, rank, four
     * dimensions, token axis, low and high.
     */
    static native ByteBuffer tensor(long functions, boolean output, int index, long[] facts);

    /** A status; {@code model} receives the model's address. */
    static native int open(long functions, int threads, long cores, ByteBuffer cancel, long[] model);

    /** A status. {@code buffers}: inputs, then outputs; {@code tensors}: TENSOR_BYTES for each of them. */
    static native int run(long functions, long model, int tokens, ByteBuffer[] buffers, ByteBuffer tensors);

    /** The size of the vocabulary, 0 where there is none. */
    static native int pieces(long functions);

    /** The piece with this id, or null. */
    static native ByteBuffer token(long functions, int id);

    /** How many tokens there are, or a status as a negative number. {@code pair} may be null. */
    static native int tokenize(long functions, ByteBuffer text, int textBytes, ByteBuffer pair, int pairBytes,
            int maxTokens, ByteBuffer ids, ByteBuffer segments);

    /** As tokenize; {@code tensors} has TENSOR_BYTES for each of the outputs. */
    static native int runText(long functions, long model, ByteBuffer text, int textBytes, ByteBuffer pair,
            int pairBytes, ByteBuffer[] outputs, ByteBuffer tensors);

    /** Overflow << 32 | count, or overflow << 32 | status as a negative number. {@code memory} is what Tokens reads. */
    static native long encode(long functions, ByteBuffer text, int textBytes, ByteBuffer pair, int pairBytes,
            int maxTokens, boolean windows, int skip, ByteBuffer memory);

    /** The same. {@code memory} receives what the task gives, of which it has {@code room}. */
    static native long task(long functions, long model, int task, ByteBuffer text, int textBytes, ByteBuffer pair,
            int pairBytes, ByteBuffer options, ByteBuffer memory, int room, int each);

    /** The same for many texts, all in one buffer; {@code sizes}: bytes of each and of its pair, -1 for none. */
    static native long tasks(long functions, long model, int task, ByteBuffer texts, ByteBuffer sizes, int count,
            ByteBuffer views, ByteBuffer options, ByteBuffer memory, int each, ByteBuffer overflows);

    /** A status. */
    static native int convert(long functions, ByteBuffer vector, int size, int type, ByteBuffer converted);

    static native float cosine(long functions, ByteBuffer a, ByteBuffer b, int size, int type);

    /** The label with this number, or null. */
    static native ByteBuffer label(long functions, int number);

    /** The text at an address that a task, or {@link #facts}, gave. */
    static native ByteBuffer text(long address);

    /** The task, how many labels there are, a vector's size, the tokens of the longest text, the address of {@code facts}. */
    static native void facts(long functions, long[] facts);

    static native void close(long functions, long model);

    private static native ByteBuffer error(long functions, long model);
}
