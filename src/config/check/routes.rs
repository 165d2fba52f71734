//! Checks the routes into the parts of the routing table.

use super::Checker;
use crate::config::SinkConfig;
use crate::config::problem::KeyPath;
use crate::config::shape;
use crate::config::tree::Node;
use crate::route::{Matcher, Route, Target};

impl Checker<'_> {
    /// The routes, and their targets grouped by route. `sinks` by their places in the file.
    pub(super) fn routes(
        &mut self,
        shapes: Vec<shape::Route>,
        sinks: &[Option<SinkConfig>],
    ) -> (Vec<Route>, Vec<Target>) {
        let list = KeyPath::parse("routes");
        if self.tree.get("routes").is_none_or(|routes| routes.items().is_empty()) {
            return everything_to_all(sinks);
        }
        let (names, kept) = (self.sink_names(), self.kept(&list));
        let (mut routes, mut targets) = (Vec::new(), Vec::new());
        for (index, mut shape) in kept.iter().copied().zip(shapes) {
            let path = list.index(index);
            let to = std::mem::take(&mut shape.to);
            targets.extend(self.targets(to, routes.len(), sinks, &names, &path.key("to")));
            routes.push(self.route(shape, index, &path));
        }
        self.route_names(&routes, &kept);
        self.idle_sinks(sinks, &targets);
        (routes, targets)
    }

    fn route(&mut self, shape: shape::Route, index: usize, path: &KeyPath) -> Route {
        let path_match = path.key("match");
        if shape.otherwise && self.is_given(&path_match) {
            let text = "stands beside `otherwise`, which takes what no route matches; keep one of the two";
            self.error(&path_match, text);
        }
        self.empty_lists(&path_match);
        let matcher = Matcher::new(&shape.conditions).unwrap_or_else(|errors| {
            for (key, text) in errors {
                self.error(&path_match.join(&key), text);
            }
            Matcher::default()
        });
        let name = shape.name.unwrap_or_else(|| format!("route-{}", index + 1));
        Route { name, matcher, otherwise: shape.otherwise }
    }

    /// A list without patterns asks nothing, which is easily taken for "matches nothing".
    fn empty_lists(&mut self, path: &KeyPath) {
        let lists = self.tree.at(path).map(Node::entries).unwrap_or_default();
        for entry in lists {
            if matches!(&entry.value.value, crate::config::tree::Value::List(items) if items.is_empty()) {
                self.warn(&path.key(&entry.key), "an empty list asks nothing of an event; take it out");
            }
            if entry.key == "not" {
                self.empty_lists(&path.key("not"));
            }
        }
    }

    fn targets(
        &mut self,
        to: Vec<shape::To>,
        route: usize,
        sinks: &[Option<SinkConfig>],
        names: &[Option<String>],
        path: &KeyPath,
    ) -> Vec<Target> {
        if self.tree.at(path).is_some_and(|list| list.items().is_empty() && !list.skipped) {
            self.error(path, "is empty; name at least one sink");
        }
        let mut targets: Vec<Target> = Vec::new();
        for (index, to) in self.kept(path).into_iter().zip(to) {
            let path = path.index(index);
            let Some(target) = self.target(to, route, sinks, names, &path) else { continue };
            let same = |other: &Target| {
                (other.sink, &other.topic, &other.key) == (target.sink, &target.topic, &target.key)
            };
            if targets.iter().any(same) {
                self.error(&path, "stands here twice, so that each event would be sent twice");
            }
            targets.push(target);
        }
        targets
    }

    fn target(
        &mut self,
        to: shape::To,
        route: usize,
        sinks: &[Option<SinkConfig>],
        names: &[Option<String>],
        path: &KeyPath,
    ) -> Option<Target> {
        let of_map = path.key("sink");
        let path_sink = if self.is_given(&of_map) { &of_map } else { path };
        let sink = self.resolve(path_sink, &to.sink, names)?;
        let config = sinks.get(sink)?.as_ref()?;
        if config.disabled {
            self.warn(path_sink, format!("the sink `{}` is disabled: it gets nothing", to.sink));
        }
        let naming = config.options.naming();
        let topic = match &to.topic {
            Some(topic) => self.topic(&path.key("topic"), topic, naming),
            None => Some(config.topic.clone()),
        };
        let key = match &to.key {
            Some(key) => self.template(&path.key("key"), key),
            None => Some(config.key.clone()),
        };
        Some(Target { route, sink, topic: topic?, key: key?, naming })
    }

    /// `kept` are the routes' places in the file.
    fn route_names(&mut self, routes: &[Route], kept: &[usize]) {
        for (index, route) in routes.iter().enumerate() {
            let first =
                routes.iter().position(|other| other.name == route.name).filter(|first| *first < index);
            if let Some(first) = first {
                let path = KeyPath::parse("routes").index(kept[index]).key("name");
                let text = format!("`{}` is already the name of routes[{}]", route.name, kept[first]);
                self.error(&path, text);
            }
        }
    }

    fn idle_sinks(&mut self, sinks: &[Option<SinkConfig>], targets: &[Target]) {
        if self.report.failed() {
            return; // A route that could not be read may name it.
        }
        for (index, sink) in sinks.iter().enumerate() {
            let Some(sink) = sink.as_ref().filter(|sink| !sink.disabled) else { continue };
            if !targets.iter().any(|target| target.sink == index) {
                let path = KeyPath::parse("sinks").index(index).key("name");
                self.warn(&path, format!("no route names the sink `{}`: it gets nothing", sink.name));
            }
        }
    }
}

/// Without routes every event goes to every sink.
fn everything_to_all(sinks: &[Option<SinkConfig>]) -> (Vec<Route>, Vec<Target>) {
    let route = Route { name: "everything".to_owned(), matcher: Matcher::default(), otherwise: false };
    let targets = sinks.iter().enumerate().filter_map(|(sink, config)| {
        let config = config.as_ref()?;
        let (topic, key) = (config.topic.clone(), config.key.clone());
        Some(Target { route: 0, sink, topic, key, naming: config.options.naming() })
    });
    (vec![route], targets.collect())
}
