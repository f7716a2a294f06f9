//! The picture of the agent turn: bars, as SVG.

use crate::{report::Figures, rounds::median};

/// What is drawn, in this order. Of several names the greatest figure.
const BARS: &[(&str, &str, &[&str])] = &[
    ("AgentKit, Rust", "#1f6feb", &["AgentKit, Rust"]),
    ("AgentKit, Python", "#79b8ff", &["AgentKit, Python"]),
    (
        "LangGraph's saver",
        "#d29922",
        &[
            "AsyncPostgresSaver, one connection",
            "AsyncPostgresSaver, pool of 20",
            "AsyncSqliteSaver",
        ],
    ),
    (
        "pgbench",
        "#8b949e",
        &[
            "pgbench, AgentKit's statements",
            "pgbench, AgentKit's statements, redundant indexes",
            "pgbench, LangGraph's rows only",
            "pgbench, LangGraph's rows only, redundant indexes",
        ],
    ),
];
const WIDTH: f64 = 760.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 62.0;
const BAR: f64 = 14.0;
const GAP: f64 = 14.0;

/// Steps/s by database and threads; `None` where nothing was measured.
pub(crate) fn agent_turn(figures: &Figures) -> Option<String> {
    let mut groups = Vec::new();
    for database in ["PostgreSQL", "SQLite"] {
        for threads in [1, 16, 64, 256] {
            let bars: Vec<_> = BARS
                .iter()
                .filter_map(|(label, colour, names)| {
                    let figure = |name| {
                        let name = format!("agent-turn/{database}/{name}/{threads}/steps");
                        Some(median(figures.get(&name)?.clone()))
                    };
                    let best = names.iter().filter_map(figure).max_by(f64::total_cmp)?;
                    Some((*label, *colour, best))
                })
                .collect();
            if !bars.is_empty() {
                groups.push((format!("{database}, {threads}"), bars));
            }
        }
    }
    let greatest = groups
        .iter()
        .flat_map(|(_, bars)| bars)
        .map(|bar| bar.2)
        .max_by(f64::total_cmp)?;
    let scale = (WIDTH - LEFT - RIGHT) / greatest;

    let mut shapes = String::new();
    let mut legend = LEFT;
    for (label, colour, _) in BARS {
        shapes += &format!(
            "<rect x=\"{legend}\" y=\"34\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"44\">{label}</text>\n",
            legend + 17.0
        );
        legend += 150.0;
    }
    let mut y = TOP;
    for (title, bars) in groups {
        shapes += &format!("<text x=\"10\" y=\"{}\">{title}</text>\n", y + BAR - 3.0);
        for (_, colour, figure) in bars {
            let length = figure * scale;
            shapes += &format!(
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{figure:.0}</text>\n",
                BAR - 2.0,
                LEFT + length + 5.0,
                y + BAR - 4.0
            );
            y += BAR;
        }
        y += GAP;
    }
    // Colours that show on a light page and on a dark one.
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#768390\">\n\
         <text x=\"10\" y=\"20\" font-size=\"15\">Agent turn: durable steps a second, by database \
         and threads at once</text>\n{shapes}</svg>\n"
    ))
}
