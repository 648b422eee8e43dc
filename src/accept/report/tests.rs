use std::fs;

use serde_json::Value;

use super::{
    sample,
    xml::{self, Element},
    *,
};
use crate::accept::stage::AGENTS;

fn hidden(mut run: Run) -> Run {
    Secrets::default().hide(&mut run);
    run
}

fn earlier() -> Previous {
    let mut run = sample::small();
    run.results.remove(1);
    for (_, value) in run.results.iter_mut().flat_map(|result| &mut result.seen.figures) {
        *value *= 0.5;
    }
    Previous::of(metrics::of(&run).unwrap())
}

#[test]
fn the_page_of_a_small_run_is_the_reviewed_one() {
    let page = html::of(&hidden(sample::small()), Some(&earlier()));
    let (head, rest) = page.split_once("<style>").unwrap();
    let (_, body) = rest.split_once("</style>").unwrap();
    insta::assert_snapshot!("page", format!("{head}<style></style>{body}"));
}

#[test]
fn the_summary_of_a_small_run_is_the_reviewed_one() {
    insta::assert_snapshot!("summary", summary::of(&hidden(sample::small()), Some(&earlier())));
}

#[test]
fn the_page_needs_nothing_but_itself_and_is_well_formed() {
    for run in [sample::small(), sample::whole()] {
        let page = html::of(&hidden(run), None);
        for word in ["<script", "src=", "@import", "url(", "http://", "https://", "<link", "NaN"] {
            assert!(!page.contains(word), "{word}");
        }
        // As XML it has no doctype, and empty elements are closed.
        let (_, rest) = page.split_once("</head>").unwrap();
        let body = rest.strip_suffix("</html>\n").unwrap();
        let body = xml::read(body.trim()).unwrap_or_else(|fault| panic!("{fault}"));
        let mut ids = Vec::new();
        let mut links = Vec::new();
        walk(&body, &mut |element| {
            ids.extend(element.attributes.get("id").cloned());
            links.extend(element.attributes.get("href").map(|to| to.trim_start_matches('#').to_owned()));
            links.extend(
                element
                    .attributes
                    .get("aria-labelledby")
                    .into_iter()
                    .flat_map(|to| to.split(' '))
                    .map(str::to_owned),
            );
        });
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count, "an id stands twice");
        for link in links {
            assert!(ids.contains(&link), "{link} leads nowhere");
        }
    }
}

fn walk(element: &Element, see: &mut impl FnMut(&Element)) {
    see(element);
    for child in &element.children {
        walk(child, see);
    }
}

#[test]
fn no_file_of_a_report_tells_a_token_or_a_password() {
    let folder = tempfile::tempdir().unwrap();
    write(&sample::small(), &Secrets::default(), Some(&earlier()), folder.path()).unwrap();
    let mut names: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["index.html", "junit.xml", "metrics.json", "summary.md"]);
    for name in names {
        let text = fs::read_to_string(folder.path().join(&name)).unwrap();
        for secret in [&AGENTS[0].token(), "hunter22"] {
            assert!(!text.contains(secret), "{name}: {secret}");
        }
    }
    // What was written is what a later run takes.
    Previous::read(&folder.path().join(METRICS)).unwrap();
}

#[test]
fn what_is_no_earlier_run_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    for (text, why) in
        [(None, "No such file"), (Some("{"), "EOF"), (Some("{\"version\":1}"), "it is no metrics.json")]
    {
        if let Some(text) = text {
            fs::write(&path, text).unwrap();
        }
        let Err(AcceptError::Option(told)) = Previous::read(&path) else { panic!("{text:?} was taken") };
        assert!(told.contains("m.json") && told.contains(why), "{told}");
    }
}

#[test]
fn metrics_fit_their_schema_and_a_wrong_one_does_not() {
    for run in [sample::small(), sample::whole()] {
        let told = metrics::of(&run).unwrap();
        for (place, wrong) in [
            ("/decision", Value::from("MAYBE")),
            ("/scenarios/0/id", Value::from("X1")),
            ("/scenarios/0/verdict", Value::from("fine")),
            ("/scenarios/0/figures/0/value", Value::from("1")),
            ("/begun", Value::from("yesterday")),
            ("/reasons", Value::Array(Vec::new())),
        ] {
            let mut spoilt = told.clone();
            *spoilt.pointer_mut(place).unwrap() = wrong;
            assert_ne!(metrics::faults(&spoilt), Vec::<String>::new(), "{place}");
        }
    }
}

/// The schema that Ant's JUnit task and Jenkins have in common: names, order, required attributes, their types.
fn check_junit(document: &Element) {
    let is_number = |text: &String| text.parse::<f64>().is_ok_and(|number| number >= 0.0);
    let is_count = |text: &String| text.parse::<u32>().is_ok();
    let stamp = regex::Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$").unwrap();
    assert_eq!((document.name.as_str(), document.attributes.len()), ("testsuites", 0));
    for (number, suite) in document.children.iter().enumerate() {
        assert_eq!(suite.name, "testsuite");
        let names: Vec<&str> = suite.attributes.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "errors",
                "failures",
                "hostname",
                "id",
                "name",
                "package",
                "skipped",
                "tests",
                "time",
                "timestamp"
            ]
        );
        assert_eq!(suite.attributes["id"], number.to_string());
        assert!(stamp.is_match(&suite.attributes["timestamp"]));
        assert!(is_number(&suite.attributes["time"]));
        let order: Vec<&str> = suite.children.iter().map(|child| child.name.as_str()).collect();
        let cases = order.len() - 3;
        assert_eq!(order[0], "properties");
        assert!(order[1..=cases].iter().all(|name| *name == "testcase"), "{order:?}");
        assert_eq!(order[cases + 1..], ["system-out", "system-err"]);
        for property in &suite.children[0].children {
            let names: Vec<&str> = property.attributes.keys().map(String::as_str).collect();
            assert_eq!((property.name.as_str(), &names[..]), ("property", &["name", "value"][..]));
        }
        for (name, element) in [("errors", "error"), ("failures", "failure"), ("skipped", "skipped")] {
            assert!(is_count(&suite.attributes[name]));
            let count = suite.named("testcase").filter(|case| case.named(element).count() == 1).count();
            assert_eq!(suite.attributes[name], count.to_string(), "{name}");
        }
        assert_eq!(suite.attributes["tests"], cases.to_string());
        for case in suite.named("testcase") {
            let names: Vec<&str> = case.attributes.keys().map(String::as_str).collect();
            assert_eq!(names, ["classname", "name", "time"]);
            assert!(is_number(&case.attributes["time"]));
            assert!(case.children.len() <= 1);
            for outcome in &case.children {
                let names: Vec<&str> = outcome.attributes.keys().map(String::as_str).collect();
                match outcome.name.as_str() {
                    "skipped" => assert!(names.is_empty()),
                    "error" | "failure" => assert_eq!(names, ["message", "type"]),
                    other => panic!("{other}"),
                }
            }
        }
    }
}

#[test]
fn the_junit_file_fits_the_common_schema() {
    for run in [sample::small(), sample::whole()] {
        let text = junit::of(&hidden(run.clone()));
        let document = xml::read(&text).unwrap_or_else(|fault| panic!("{fault}\n{text}"));
        check_junit(&document);
        let cases: usize = document.children.iter().map(|suite| suite.named("testcase").count()).sum();
        assert_eq!(cases, run.results.len());
    }
}

#[test]
fn a_difference_within_noise_is_none() {
    let told = |value: f64| {
        let mut run = sample::small();
        run.results.truncate(1);
        run.results[0].seen.figures = vec![("success", value)];
        run
    };
    let previous = Previous::of(metrics::of(&told(90.0)).unwrap());
    let figure = crate::accept::table::find("M2").unwrap().figure("success").unwrap();
    for (value, way) in [
        (90.0, Some("same")),
        (85.0, Some("same")),
        (70.0, Some("worse")),
        (100.0, Some("better")),
        (f64::NAN, None),
    ] {
        assert_eq!(previous.difference("M2", figure, value).map(|one| one.way), way, "{value}");
    }
    assert_eq!(previous.difference("M3", figure, 90.0), None);
}

/// Where `TMWS_ACCEPT_SAMPLE` names a folder, made-up reports are written there, to be looked at.
#[test]
fn a_made_up_run_of_everything_makes_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let place =
        std::env::var_os("TMWS_ACCEPT_SAMPLE").map_or_else(|| folder.path().to_owned(), PathBuf::from);
    for (name, run) in [("whole", sample::whole()), ("small", sample::small())] {
        let page = write(&run, &Secrets::default(), Some(&earlier()), &place.join(name)).unwrap();
        assert!(fs::read_to_string(page).unwrap().contains(&html::standing(&run)));
    }
}
