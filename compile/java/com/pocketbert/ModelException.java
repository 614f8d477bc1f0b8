package com.pocketbert;

/**
 * No fault of an argument: no such library, too little memory, a CPU too old, text without a vocabulary, a model that
 * was opened before this process was forked (in an app's zygote).
 */
public final class ModelException extends RuntimeException {
    private static final long serialVersionUID = 1;

    ModelException(String message) {
        super(message);
    }

    ModelException(String message, Throwable cause) {
        super(message, cause);
    }
}
