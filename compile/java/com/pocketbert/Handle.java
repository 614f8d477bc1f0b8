package com.pocketbert;

import java.lang.ref.PhantomReference;
import java.lang.ref.ReferenceQueue;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/**
 * An open model in C. Everything that touches it happens under this object's lock.
 *
 * <p>A Model that is dropped without close() is freed when the next one is opened: so dropped ones cannot pile up, and
 * there is neither a finaliser nor a thread. (java.lang.ref.Cleaner, which has a thread, needs Android 13.)
 */
final class Handle extends PhantomReference<Model> {
    private static final ReferenceQueue<Model> DROPPED = new ReferenceQueue<>();

    /** A phantom reference that is not reachable itself is never enqueued. */
    private static final Set<Handle> OPEN = Collections.newSetFromMap(new ConcurrentHashMap<Handle, Boolean>());

    private final long functions;
    private final Model.Log log;
    private long model;

    /** The int that C looks at while it runs. */
    private final ByteBuffer cancel = ByteBuffer.allocateDirect(Integer.BYTES).order(ByteOrder.nativeOrder());

    Handle(Model owner, long functions, Model.Options options) {
        super(owner, DROPPED);
        for (Object dropped = DROPPED.poll(); dropped != null; dropped = DROPPED.poll()) {
            ((Handle) dropped).close();
        }
        long[] opened = new long[1];
        this.functions = functions;
        this.log = options.log;
        try {
            Native.check(Native.open(functions, options.threads, options.cores, cancel, opened), functions, 0);
        } catch (RuntimeException error) {
            throw logged(error);
        }
        this.model = opened[0];
        OPEN.add(this);
    }

    private RuntimeException logged(RuntimeException error) {
        if (log != null) {
            log.log(error.getMessage());
        }
        return error;
    }

    /** The count in what C returns. */
    private int checked(long result) {
        try {
            return Native.checkTask(result, functions, model);
        } catch (RuntimeException error) {
            throw logged(error);
        }
    }

    synchronized void run(int tokens, ByteBuffer[] buffers, ByteBuffer tensors) {
        requireOpen();
        checked(-Native.run(functions, model, tokens, buffers, tensors));
    }

    synchronized int runText(ByteBuffer text, ByteBuffer pair, ByteBuffer[] outputs, ByteBuffer tensors) {
        requireOpen();
        int tokens = Native.runText(
                functions, model, text, Native.length(text), pair, Native.length(pair), outputs, tensors);
        return checked(tokens);
    }

    synchronized int task(
            int task, String text, String pair, ByteBuffer options, ByteBuffer memory, int room, int each) {
        requireOpen();
        ByteBuffer first = Native.encode(text);
        ByteBuffer second = Native.encode(pair);
        long result = Native.task(functions, model, task, first, Native.length(first), second, Native.length(second),
                options, memory, room, each);
        return checked(result);
    }

    /** texts: each followed by its pair, which may be null. */
    synchronized void tasks(int task, List<String> texts, ByteBuffer options, ByteBuffer memory, int each) {
        requireOpen();
        int count = texts.size() / 2;
        List<byte[]> parts = new ArrayList<>();
        ByteBuffer sizes = ByteBuffer.allocateDirect(8 * count + 1).order(ByteOrder.nativeOrder());
        int bytes = 0;
        for (String text : texts) {
            byte[] part = text == null ? new byte[0] : text.getBytes(StandardCharsets.UTF_8);
            parts.add(part);
            sizes.putInt(text == null ? -1 : part.length);
            bytes = Math.addExact(bytes, part.length);
        }
        ByteBuffer all = ByteBuffer.allocateDirect(bytes + 1);
        for (byte[] part : parts) {
            all.put(part);
        }
        ByteBuffer views = ByteBuffer.allocateDirect(Math.multiplyExact(32, count) + 1);
        long result = Native.tasks(functions, model, task, all, sizes, count, views, options, memory, each,
                ByteBuffer.allocateDirect(4 * count + 1));
        checked(result);
    }

    void cancel(boolean value) {
        cancel.putInt(0, value ? 1 : 0);
    }

    synchronized void close() {
        if (model != 0) {
            Native.close(functions, model);
            model = 0;
            OPEN.remove(this);
        }
    }

    private void requireOpen() {
        if (model == 0) {
            throw new IllegalStateException("the model is closed");
        }
    }
}
