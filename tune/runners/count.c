/* A TCG plugin that counts executed guest instructions: the same number on every run and machine.
 *
 * QEMU's header is not in every distribution's package, so what is used of it is declared here (plugin API version 1).
 */
#include <stdint.h>
#include <stdio.h>

typedef uint64_t plugin_id;
typedef struct block block;

extern __attribute__((visibility("default"))) int qemu_plugin_version;
int qemu_plugin_version = 1;

size_t qemu_plugin_tb_n_insns(const block *translated);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*callback)(plugin_id, block *));
void qemu_plugin_register_vcpu_tb_exec_inline(block *translated, int operation, void *counter, uint64_t amount);
void qemu_plugin_register_atexit_cb(plugin_id id, void (*callback)(plugin_id, void *), void *data);
int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments);

static uint64_t executed;

static void on_translation(plugin_id id, block *translated)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(translated, 0 /* add */, &executed, qemu_plugin_tb_n_insns(translated));
}

static void on_exit(plugin_id id, void *data)
{
    (void)id, (void)data;
    fprintf(stderr, "executed=%llu\n", (unsigned long long)executed);
}

int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments)
{
    (void)info, (void)count, (void)arguments;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_exit, NULL);
    return 0;
}
