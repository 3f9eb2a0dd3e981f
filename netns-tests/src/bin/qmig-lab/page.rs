//! One page with everything on it: it needs no network, no other file.

use netns_tests::Link;
use netns_tests::experiment::{Record, WAYS};
use serde_json::{Value, json};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = concat!(include_str!("page.js"), include_str!("plots.js"));

/// The page of an experiment.
pub(crate) fn page(name: &str, records: &[Record]) -> String {
    let ways: Vec<Value> =
        WAYS.iter().map(|(word, _, told)| json!({ "word": word, "told": told })).collect();
    let runs: Vec<Value> = records.iter().map(run).collect();
    let data = json!({ "name": name, "ways": ways, "runs": runs });
    // In a script element only this could end it.
    let data = data.to_string().replace("</", "<\\/");
    PAGE.replace("{{style}}", STYLE).replace("{{script}}", SCRIPT).replace("{{data}}", &data)
}

/// A record, with what its link's words mean.
fn run(record: &Record) -> Value {
    let mut value = serde_json::to_value(record).unwrap_or_default();
    if let Ok(link) = record.link.parse::<Link>() {
        value["rtt_ms"] = json!(link.round_trip().as_secs_f64() * 1e3);
        value["loss"] = json!(link.up.loss.share());
        value["rate"] = json!(link.up.rate.map(netns_tests::link::Rate::as_bits));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_the_script_and_nothing_is_fetched() {
        let record = Record {
            link: "rate=100Mbit rtt=20ms loss=1%".into(),
            load: "</script><script>".into(),
            ..Record::default()
        };
        let text = page("a <b> & c", &[record]);
        assert_eq!(text.matches("</script>").count(), PAGE.matches("</script>").count());
        assert!(text.contains("\"rtt_ms\":20.0") && text.contains("\"rate\":100000000"));
        assert!(!text.contains("{{") && !text.contains("src=") && !text.contains("@import"));
        let addresses = text.matches("http").count();
        assert_eq!(addresses, text.matches("http://www.w3.org/2000/svg").count());
    }
}
