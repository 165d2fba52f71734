//! The routing table: which targets an event has.

use super::index::Index;
use super::{Matcher, Template};
use crate::event::Event;
use crate::sinks::Naming;

/// One place that a route sends to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The route that this stands in, and the sink it names, by their indexes.
    pub route: usize,
    pub sink: usize,
    pub topic: Template,
    pub key: Template,
    pub naming: Naming,
}

#[derive(Clone, Debug)]
pub struct Route {
    pub name: String,
    pub matcher: Matcher,
    /// Applies only to events that no route without `otherwise` matched.
    pub otherwise: bool,
}

/// What a sink takes not, whatever the routes say: the registry's `ignore` and `disabled`.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub disabled: bool,
    pub ignore_actions: Vec<String>,
    pub ignore_mediatypes: Vec<String>,
}

impl Filter {
    /// Why an event is kept from the sink; `None` when it passes.
    pub fn reason(&self, event: &Event) -> Option<&'static str> {
        if self.disabled {
            Some("the sink is disabled")
        } else if self.ignore_actions.iter().any(|action| action == event.action()) {
            Some("the sink ignores the action")
        } else if self.ignore_mediatypes.iter().any(|mediatype| mediatype == event.media_type()) {
            Some("the sink ignores the media type")
        } else {
            None
        }
    }
}

/// A target, by its place in the table.
pub type TargetId = u32;

/// All routes, compiled. An event goes to every target of every route that matches it.
#[derive(Clone, Debug, Default)]
pub struct Table {
    routes: Vec<Route>,
    /// Of the routes' matchers.
    index: Index,
    /// Grouped by route, in the routes' order.
    targets: Vec<Target>,
    /// Where each route's targets begin; one more at the end.
    starts: Vec<usize>,
    filters: Vec<Filter>,
}

impl Table {
    /// `targets` must be grouped by route, in the routes' order; `filters` has one entry per sink.
    pub fn new(routes: Vec<Route>, targets: Vec<Target>, filters: Vec<Filter>) -> Self {
        let starts = (0..=routes.len()).map(|route| targets.partition_point(|t| t.route < route)).collect();
        let index = Index::new(routes.iter().map(|route| &route.matcher));
        Self { routes, index, targets, starts, filters }
    }

    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    pub fn target(&self, id: TargetId) -> &Target {
        &self.targets[id as usize]
    }

    /// What sink number `sink` takes not.
    pub fn filter(&self, sink: usize) -> &Filter {
        &self.filters[sink]
    }

    /// The targets of one route.
    pub fn targets_of(&self, route: usize) -> &[Target] {
        &self.targets[self.starts[route]..self.starts[route + 1]]
    }

    /// Appends every target of `event` to `out`, in the routes' order.
    pub fn route(&self, event: &Event, out: &mut Vec<TargetId>) {
        let fits = self.index.look(event);
        let mut any = false;
        for otherwise in [false, true] {
            if otherwise && any {
                break;
            }
            for (index, route) in self.routes.iter().enumerate() {
                if route.otherwise == otherwise && self.index.is_match(index, &fits) {
                    any = true;
                    self.add_targets(index, event, out);
                }
            }
        }
    }

    fn add_targets(&self, route: usize, event: &Event, out: &mut Vec<TargetId>) {
        for id in self.starts[route]..self.starts[route + 1] {
            if self.filters[self.targets[id].sink].reason(event).is_none() {
                out.push(id as TargetId);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Conditions;

    fn route(name: &str, yaml: &str, otherwise: bool) -> Route {
        let conditions: Conditions = serde_yaml::from_str(yaml).expect(yaml);
        Route { name: name.into(), matcher: Matcher::new(&conditions).expect(yaml), otherwise }
    }

    fn target(route: usize, sink: usize) -> Target {
        let template = |text| Template::parse(text).expect(text);
        Target {
            route,
            sink,
            topic: template("registry.{action}"),
            key: template("{repository}"),
            naming: Naming::Plain,
        }
    }

    fn event(action: &str, mediatype: &str) -> Event {
        let json = serde_json::json!({"action": action, "target": {"mediaType": mediatype}});
        Event::parse(json.to_string().into()).expect("an event")
    }

    #[test]
    fn fans_out_and_falls_back() {
        let table = Table::new(
            vec![
                route("a", "{actions: [push]}", false),
                route("b", "{}", true),
                route("c", "{actions: ['pu*']}", false),
            ],
            vec![target(0, 0), target(0, 1), target(1, 2), target(2, 1)],
            vec![
                Filter::default(),
                Filter { ignore_mediatypes: vec!["x/y".into()], ..Filter::default() },
                Filter::default(),
            ],
        );
        let routed = |action, mediatype| {
            let mut out = Vec::new();
            table.route(&event(action, mediatype), &mut out);
            out
        };
        assert_eq!(routed("push", ""), [0, 1, 3]);
        assert_eq!(routed("push", "x/y"), [0]);
        assert_eq!(routed("pull", ""), [3]);
        assert_eq!(routed("delete", ""), [2]);
        // Matched, if ignored there: not `otherwise`.
        assert_eq!(routed("pull", "x/y"), [] as [TargetId; 0]);
    }
}
