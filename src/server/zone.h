/* `nef zone`: one zone's process. Loads the configuration, starts runtime, S3 and admin listeners, tells
 * systemd it is ready, and runs until SIGTERM/SIGINT or until the runtime must end. Returns the exit
 * status: 0 clean, 1 failed, 2 configuration. */
#ifndef NEF_SERVER_ZONE_H
#define NEF_SERVER_ZONE_H

int nef_zone_main(const char *config_path);

#endif
