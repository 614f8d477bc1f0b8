package com.pocketbert;

/**
 * No fault of an argument: no such library, too little memory, a CPU too old, text without a vocabulary, a model that
 * was opened before this process was forked (in an app's zygote).
 */
public final class ModelException extends RuntimeException {
    private static final long serialVersionUID = 1;

    private final int code;

    ModelException(String message) {
        this(message, 0);
    }

    ModelException(String message, int code) {
        super(message);
        this.code = code;
    }

    ModelException(String message, Throwable cause) {
        super(message, cause);
        code = 0;
    }

    /** One of POCKETBERT_ERROR_… in pocketbert.h, as 13 for a run that was cancelled; 0: it does not come from there. */
    public int code() {
        return code;
    }
}
