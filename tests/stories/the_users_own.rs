//! The Dockerfiles of the people who asked for the program, as they wrote them.

use crate::support::Project;

#[test]
fn python_app_builds_and_runs() {
    let project = Project::new();
    project.copy_fixture("python-app");
    project
        .build("-t my-python-app .")
        .succeeds()
        .ran(["WORKDIR /app", "COPY app.py ."]);
    project
        .builder("run my-python-app")
        .run()
        .succeeds()
        .prints("Hello from /app, built without a daemon.");
}

#[test]
fn python_requirements_install_a_real_package() {
    let project = Project::new();
    project.copy_fixture("python-requirements");
    project
        .build("-t app .")
        .succeeds()
        .ran(["RUN pip install -r requirements.txt"]);
    project.run("app").succeeds().prints("{'built': 'by builder'}");
    project.write("main.py", "print('edited')");
    project
        .build("-t app .")
        .succeeds()
        .cached(["RUN pip install -r requirements.txt"])
        .ran(["COPY . ."]);
    project.run("app").succeeds().prints("edited");
}

#[test]
fn flask_api_on_a_stand_in_for_ubuntu() {
    let project = Project::new();
    project.copy_fixture("flask-api");
    project
        .build("-t api .")
        .succeeds()
        .ran(["RUN pip3 install -r requirements.txt"]);
    project
        .run("-e ANSWER_ONCE=1 api")
        .succeeds()
        .prints("{'status': 'ok'}");
    project
        .builder("inspect --format {{.Author}} api")
        .run()
        .succeeds()
        .prints("Adam Angell");
}

#[test]
fn python_arguments_come_from_entrypoint_and_cmd() {
    let project = Project::new();
    project.copy_fixture("python-arguments");
    project.build("-t app --build-arg VERSION=2.0 .").succeeds();
    project
        .run("app")
        .succeeds()
        .prints("environment=production port=5000 tools=curl,git");
    project.run("app --port 81").succeeds().prints("port=81");
    let inspected = project.builder("inspect app").run().succeeds();
    inspected.prints("\"version\": \"2.0\"").prints("5000/tcp");
}

#[test]
fn hello_run_of_the_readme() {
    let project = Project::new();
    project.copy_fixture("hello-run");
    project.build("-t hello .").succeeds();
    project
        .run("hello")
        .succeeds()
        .prints("Hello from a container. built on ");
}
