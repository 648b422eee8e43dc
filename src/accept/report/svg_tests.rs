use super::{super::xml, *};

fn chart(lines: &[&[(f64, f64)]]) -> Chart {
    Chart {
        id: "c".to_owned(),
        title: "A <chart> & \"more\"".to_owned(),
        across: "s",
        unit: "ms".to_owned(),
        lines: lines
            .iter()
            .map(|points| Line { name: "line & <line>".to_owned(), points: points.to_vec() })
            .collect(),
        ..Chart::default()
    }
}

/// Every number in the drawing lies within it.
fn check(chart: &Chart) -> String {
    let drawn = chart.draw();
    xml::read(&drawn).unwrap_or_else(|fault| panic!("{fault}: {drawn}"));
    for word in ["NaN", "inf", "null"] {
        assert!(!drawn.contains(word), "{word}: {drawn}");
    }
    for path in drawn.split(" d=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        for number in
            path.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-')).filter(|n| !n.is_empty())
        {
            let number: f64 = number.parse().unwrap();
            assert!((0.0..=WIDTH).contains(&number), "{number} in {path}");
        }
    }
    drawn
}

#[test]
fn charts_without_points_say_so() {
    for lines in [&[][..], &[&[][..]], &[&[(f64::NAN, 1.0), (1.0, f64::NAN), (f64::INFINITY, 2.0)][..]]] {
        let drawn = check(&chart(lines));
        assert!(drawn.contains("nothing was measured"), "{drawn}");
    }
}

#[test]
fn a_kind_of_call_looks_the_same_in_every_chart() {
    let line = |name: &&str| Line { name: (*name).to_owned(), points: vec![(0.0, 1.0), (1.0, 2.0)] };
    let table = [
        (&["matching", "infrastructure", "memory", "hybrid"][..], &[0, 1, 2, 3][..]),
        (&["hybrid", "memory", "infrastructure"], &[3, 2, 1]),
        (&["listed", "memory", "read"], &[4, 2, 5]),
        (&["resident", "threads"], &[0, 1]),
    ];
    for (names, expected) in table {
        let lines: Vec<Line> = names.iter().map(line).collect();
        let looks: Vec<usize> = (0..lines.len()).map(|place| look(&lines, place)).collect();
        assert_eq!(looks, expected, "{names:?}");
        let drawn = Chart { lines, ..chart(&[]) }.draw();
        for look in expected {
            assert_eq!(drawn.matches(&format!("class=\"line c{look}\"")).count(), 2, "{names:?}: {drawn}");
        }
    }
}

#[test]
fn a_single_point_is_a_dot() {
    for is_log in [false, true] {
        let drawn = check(&Chart { is_log, ..chart(&[&[(3.0, 4.0)]]) });
        assert!(drawn.contains("<circle"), "{drawn}");
    }
}

#[test]
fn whatever_the_values_are_they_have_a_place() {
    let many: Vec<(f64, f64)> = (0..10_000).map(|n| (f64::from(n), f64::from(n % 7))).collect();
    let wide = [(1e-9, 1.0), (1e12, 2.0)];
    for is_log in [false, true] {
        for points in [
            &[(0.0, 0.0), (1.0, 0.0)][..],
            &[(0.0, 5.0), (0.0, 5.0)],
            &[(0.0, -3.0), (2.0, 4.0)],
            &[(5.0, 1e300), (6.0, -1e300)],
            &[(0.0, 1e-300), (1e-300, 0.0)],
            &[(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)],
            &wide,
            &many,
        ] {
            check(&Chart {
                is_log,
                marks: vec![(1.0, "killed".to_owned()), (f64::NAN, "never".to_owned())],
                ..chart(&[points])
            });
        }
    }
}

#[test]
fn what_is_thinned_keeps_its_extremes() {
    let mut points: Vec<(f64, f64)> = (0..100_000).map(|n| (f64::from(n), 10.0)).collect();
    points[54_321].1 = 99.0;
    points[12_345].1 = 1.0;
    let kept = thinned(&points);
    assert!(kept.len() <= POINTS_MAX, "{}", kept.len());
    assert_eq!(range(kept.iter().map(|(_, y)| *y)), (1.0, 99.0));
    assert!(kept.is_sorted_by(|a, b| a.0 <= b.0));
}

#[test]
fn ticks_are_round_and_few() {
    for (from, to) in [(0.0, 1.0), (0.0, 7.3), (0.0, 60.0), (0.0, 1234.0), (-5.0, 5.0), (0.0, 0.003)] {
        let ticks = ticks(from, to, 4);
        assert!((2..=9).contains(&ticks.len()), "{from} to {to}: {ticks:?}");
    }
    for (from, to) in [(0.1, 1_000.0), (3.0, 7.0), (1e-9, 1e12), (10.0, 10_000.0)] {
        let ticks = log_ticks(from, to);
        assert!((1..=9).contains(&ticks.len()), "{from} to {to}: {ticks:?}");
    }
}
