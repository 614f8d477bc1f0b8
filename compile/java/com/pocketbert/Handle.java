package com.pocketbert;

import java.lang.ref.PhantomReference;
import java.lang.ref.ReferenceQueue;
import java.nio.ByteBuffer;
import java.util.Collections;
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
    private long model;

    Handle(Model owner, long functions, Model.Options options) {
        super(owner, DROPPED);
        for (Object dropped = DROPPED.poll(); dropped != null; dropped = DROPPED.poll()) {
            ((Handle) dropped).close();
        }
        long[] opened = new long[1];
        Native.check(Native.open(functions, options.threads, options.cores, opened), functions, 0);
        this.functions = functions;
        this.model = opened[0];
        OPEN.add(this);
    }

    synchronized void run(int tokens, ByteBuffer[] buffers, ByteBuffer tensors) {
        requireOpen();
        Native.check(Native.run(functions, model, tokens, buffers, tensors), functions, model);
    }

    synchronized int runText(ByteBuffer text, ByteBuffer pair, ByteBuffer[] outputs, ByteBuffer tensors) {
        requireOpen();
        int tokens = Native.runText(
                functions, model, text, Native.length(text), pair, Native.length(pair), outputs, tensors);
        return Native.checkCount(tokens, functions, model);
    }

    synchronized int task(int task, String text, String pair, boolean truncate, ByteBuffer memory, int room, int each) {
        requireOpen();
        ByteBuffer first = Native.encode(text);
        ByteBuffer second = Native.encode(pair);
        long result = Native.task(functions, model, task, first, Native.length(first), second, Native.length(second),
                memory, room, each);
        return Native.checkTask(result, truncate, functions, model);
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
