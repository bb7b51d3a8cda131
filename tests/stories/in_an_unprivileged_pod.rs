//! In a container that may neither mount nor make namespaces, as Kubernetes pods are.

use crate::support::Project;
use crate::support::pod::in_pod;

#[test]
fn what_is_missing_is_told_one_by_one() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN true\n");
    in_pod(&project, "builder build .")
        .exits(3)
        .says("user 0 may neither mount nor make a user namespace here")
        .says("a system call filter (seccomp) is active")
        .says("CAP_SYS_ADMIN");
}
