package com.pocketbert;

/** A model cannot be loaded or opened: no such library, too little memory, a CPU without the instructions it needs. */
public final class ModelException extends RuntimeException {
    private static final long serialVersionUID = 1;

    ModelException(String message) {
        super(message);
    }

    ModelException(String message, Throwable cause) {
        super(message, cause);
    }
}
