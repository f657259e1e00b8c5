/* Telling systemd how a service is doing (sd_notify(3)), without libsystemd. Outside of systemd,
 * where NOTIFY_SOCKET isn't set, nothing happens. Any thread. */
#ifndef NEF_IO_NOTIFY_H
#define NEF_IO_NOTIFY_H

/* state: "READY=1", "STOPPING=1", "STATUS=catching up", lines separated by '\n'. A failure is
 * ignored on purpose: the service works without its manager's knowing. */
void nef_notify(const char *state);

#endif
