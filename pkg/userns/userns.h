extern int balena_userns_uid;
extern int balena_userns_gid;
extern int balena_userns_conn;
