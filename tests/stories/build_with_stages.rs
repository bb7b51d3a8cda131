//! Several stages: only what is needed is built, and what is independent is built at once.

use crate::support::Project;

#[test]
fn a_stage_that_nothing_needs_is_not_built() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox AS unused\nRUN false\nFROM busybox\nRUN true\n",
    );
    project
        .build("-t app .")
        .succeeds()
        .ran(["RUN true"])
        .never_says("RUN false");
}

#[test]
fn target_builds_a_stage_by_name_whatever_its_case() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox AS Base\nRUN echo base > /who\nFROM base AS final\nRUN echo final > /who\n",
    );
    project.build("-t app --target BASE .").succeeds().never_says("final");
    let output = project.run("app cat /who").succeeds();
    assert_eq!(output.stdout, "base\n");
}

#[test]
fn copy_from_a_stage_an_index_and_an_image() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox AS one\nRUN echo 1 > /one\nFROM busybox\nRUN echo 2 > /two\nFROM debian:bookworm-slim\n\
         COPY --from=one /one /\nCOPY --from=1 /two /\nCOPY --from=busybox /bin/busybox /busybox\nCMD [\"/busybox\", \"cat\", \"/one\", \"/two\"]\n",
    );
    project.build("-t app .").succeeds();
    project.run("app").succeeds().prints("1\n2\n");
}

#[test]
fn an_argument_says_which_stage_to_copy_from() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox AS debug\nRUN echo debug > /kind\nFROM busybox AS release\nRUN echo release > /kind\nFROM busybox\n\
         ARG KIND=release\nCOPY --from=$KIND /kind /copied\nRUN --mount=from=${KIND},target=/from cat /from/kind > /mounted\n\
         CMD cat /copied /mounted\n",
    );
    project.build("-t app .").succeeds().never_says("debug");
    project.run("app").succeeds().prints("release\nrelease\n");
    project
        .build("-t app --build-arg KIND=debug .")
        .succeeds()
        .ran(["RUN echo debug > /kind"]);
    project.run("app").succeeds().prints("debug\ndebug\n");
    project
        .build("--build-arg KIND=dbug -t app .")
        .exits(3)
        .says("Dockerfile:7")
        .says("did you mean `debug`?");
}

#[test]
fn independent_stages_run_at_the_same_time() {
    let project = Project::new();
    // Each stage waits until the other has begun: run one after the other, neither would end.
    let fifo = |own: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,target=/meet touch /meet/{own}; for i in $(seq 100); do [ -e /meet/{other} ] && exit 0; sleep 0.1; done; exit 1"
        )
    };
    let dockerfile = format!(
        "FROM busybox AS a\n{}\nRUN echo a > /out\nFROM busybox AS b\n{}\nRUN echo b > /out\nFROM busybox\nCOPY --from=a /out /a\nCOPY --from=b /out /b\n",
        fifo("a", "b"),
        fifo("b", "a")
    );
    project.write("Dockerfile", dockerfile);
    project.build("-t app .").succeeds();
}

#[test]
fn a_locally_built_image_is_a_base() {
    let project = Project::new();
    project.write(
        "base/Dockerfile",
        "FROM busybox\nENV WHO=base\nRUN echo $WHO > /who\nONBUILD RUN echo fired > /fired\n",
    );
    project.build("-t company/base:1 base").succeeds();
    project.write(
        "Dockerfile",
        "FROM company/base:1\nRUN cat /fired >> /who\nCMD cat /who; echo $WHO\n",
    );
    project.build("-t app .").succeeds();
    project.run("app").succeeds().prints("base\nfired\nbase\n");
}

#[test]
fn from_scratch_makes_an_image_of_one_layer() {
    let project = Project::new();
    std::fs::copy("/bin/busybox", project.directory().join("busybox")).unwrap();
    project.write(
        "Dockerfile",
        "FROM scratch\nCOPY busybox /busybox\nENTRYPOINT [\"/busybox\", \"echo\"]\nCMD [\"from\", \"scratch\"]\n",
    );
    project.build("-t app .").succeeds();
    project.run("app").succeeds().prints("from scratch");
    project.run("app other words").succeeds().prints("other words");
}
