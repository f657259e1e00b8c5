/* `nef witness`: the third place's process. It keeps etcd's leadership at its own member, so that
 * losing a zone costs no election; tells zones its wall time, which decides between two clocks that
 * differ; and shows what it sees of the region. It never holds customer data, names or keys.
 *
 * Admin listener: /health/live and /health/ready need no token; /time, /metrics and /status do not
 * tell anything of customers; /metrics and /status need the bearer token. Runs until SIGTERM or
 * SIGINT. Returns the exit status: 0 clean, 1 failed, 2 configuration. */
#ifndef NEF_WITNESS_WITNESS_H
#define NEF_WITNESS_WITNESS_H

int nef_witness_main(const char *config_path);

#endif
