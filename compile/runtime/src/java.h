/* What the runtime takes from the Java Native Interface, declared by hand: where libraries are cross-compiled there is
 * no jni.h. The positions of the functions are fixed by the interface's specification, and a test compares them. */
#ifndef PB_JAVA_H
#define PB_JAVA_H

#include <stdint.h>

enum { PB_JNI_VERSION = 0x00010006, PB_JNI_OK = 0, PB_JNI_ERROR = -1 };

typedef void *pb_object; /* jobject and all that derive from it */

typedef union {
    int32_t i;
    int64_t j;
    pb_object l;
} pb_jvalue;

typedef struct {
    const char *name;
    const char *signature;
    void *function;
} pb_jni_method;

typedef const struct pb_jni *pb_env;
struct pb_jni {
    void *before_6[6];
    pb_object (*FindClass)(pb_env *env, const char *name);
    void *before_17[10];
    void (*ExceptionClear)(pb_env *env);
    void *before_23[5];
    void (*DeleteLocalRef)(pb_env *env, pb_object object);
    void *before_113[89];
    void *(*GetStaticMethodID)(pb_env *env, pb_object class, const char *name, const char *signature);
    void *before_119[5];
    uint8_t (*CallStaticBooleanMethodA)(pb_env *env, pb_object class, void *method, const pb_jvalue *arguments);
    void *before_167[47];
    pb_object (*NewStringUTF)(pb_env *env, const char *text);
    void *before_173[5];
    pb_object (*GetObjectArrayElement)(pb_env *env, pb_object array, int32_t index);
    void *before_212[38];
    void (*SetLongArrayRegion)(pb_env *env, pb_object array, int32_t start, int32_t count, const int64_t *from);
    void *before_215[2];
    int32_t (*RegisterNatives)(pb_env *env, pb_object class, const pb_jni_method *methods, int32_t count);
    void *before_228[12];
    uint8_t (*ExceptionCheck)(pb_env *env);
    pb_object (*NewDirectByteBuffer)(pb_env *env, void *address, int64_t capacity);
    void *(*GetDirectBufferAddress)(pb_env *env, pb_object buffer);
};

typedef const struct pb_jvm *pb_vm;
struct pb_jvm {
    void *before_6[6];
    int32_t (*GetEnv)(pb_vm *vm, void **env, int32_t version);
};

#endif
