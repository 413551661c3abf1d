//! The server that a capture is replayed at, offline.

use std::path::Path;

use pushplane::capture::push::Owners;
use pushplane::config::{Config, Limits, Policy};
use pushplane::table::{Image, Tables};

use super::Args;
use super::engine::Setup;
use super::messages::{Choice, World};
use crate::common::Opened;
use crate::{Stop, common};

/// A server that is not running: its tables and what it is told.
pub(super) struct Place {
    pub(super) name: String,
    pub(super) tables: Tables,
    pub(super) setup: Setup,
}

/// As the command line says, and what the messages of a capture are at it.
pub(super) fn open(args: &Args) -> Result<(Place, World), Stop> {
    match (&args.config, &args.tables) {
        (Some(config), _) => {
            let Config { tables, name, policy, limits, .. } = Config::load(config)?;
            of(&args.choice, &tables, Some(&name), policy, limits)
        }
        (None, Some(tables)) => {
            of(&args.choice, tables, args.own.as_deref(), Policy::default(), Limits::default())
        }
        (None, None) => Err(Stop::Wrong("one of --tables and --config is needed".to_owned())),
    }
}

/// The first server of tables, with everything else as it is when nothing is said.
pub(super) fn of_tables(choice: &Choice, tables: &Path) -> Result<(Place, World), Stop> {
    of(choice, tables, None, Policy::default(), Limits::default())
}

fn of(
    choice: &Choice,
    path: &Path,
    name: Option<&str>,
    policy: Policy,
    limits: Limits,
) -> Result<(Place, World), Stop> {
    let opened = common::open(path)?;
    common::warn(&opened.warnings);
    let owners = choice.as_push.then(|| Owners::new(&opened.image.to_rib()));
    let Opened { image, .. } = opened;
    let app = choice.app.unwrap_or_else(|| first_app(&image));
    let place = Place::new(image, path, name, policy, limits)?;
    let gateways = place.tables.image().to_rib_without_users().gateways;
    let inner = gateways.iter().flat_map(|gateway| [gateway.source_v4, gateway.source_v6]);
    let own = inner.flatten().chain(place.setup.listen.first().copied()).collect();
    Ok((place, World { owners, own, app }))
}

/// The same server over other tables.
pub(super) fn over(place: &Place, path: &Path) -> Result<Place, Stop> {
    let image = common::open_tables(path)?;
    let Setup { policy, limits, .. } = place.setup;
    Place::new(image, path, Some(&place.name), policy, limits)
}

impl Place {
    fn new(
        image: Image,
        path: &Path,
        asked: Option<&str>,
        policy: Policy,
        limits: Limits,
    ) -> Result<Self, Stop> {
        let name = common::own_server(&image, path, asked)?;
        let tables = Tables::new(image, 1, &name, None);
        let own = tables.own().map(|own| tables.server_address(own));
        let listen = own.map(common::listen_of).unwrap_or_default();
        Ok(Self { name, tables, setup: Setup { listen, policy, limits } })
    }
}

/// The application of the lowest number, else 1.
fn first_app(image: &Image) -> u32 {
    image.to_rib_without_users().apps.first().map_or(1, |app| app.id)
}
