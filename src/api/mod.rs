//! The HTTP interface. doc/http-api.md describes it for its users.
//!
//! It knows how to take an order in, how to find one, who listens, what can be done with dead letters and webhooks and which
//! stages are paused; where orders are kept it does not know.
//!
//! # Stopping
//! A stopping server accepts no more connections, answers the requests it has, ends its streams of events, and asks clients
//! to close their connections.

mod body;
mod dead_letters;
mod events;
mod health;
mod idempotency;
mod life;
mod orders;
mod parameters;
pub mod problem;
mod stages;
mod streams;
mod view;
mod webhooks;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle, Service};
use actix_web::http::header::{self, HeaderValue};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, ResponseError, guard, web};

pub use life::Life;
pub use orders::Orders;
use problem::Problem;
pub use stages::Stages;
pub use streams::StreamOptions;
use streams::Streams;

use crate::dead_letters::DeadLetterOffice;
use crate::live::Live;
use crate::readiness::Readiness;
use crate::webhooks::WebhookOffice;

/// How the server treats connections.
#[derive(Clone, Copy, Debug)]
pub struct ApiOptions {
    /// Threads that serve connections.
    pub threads: usize,
    /// Connections held at once; further ones wait in the kernel's queue.
    pub connections_max: usize,
    /// How long the head of a request may take to arrive.
    pub request_timeout: Duration,
    pub streams: StreamOptions,
}

/// What a process that takes orders serves.
pub struct Services {
    pub orders: Orders,
    pub life: Life,
    pub dead_letters: DeadLetterOffice,
    pub stages: Stages,
    pub webhooks: WebhookOffice,
    /// `None` where nothing is told.
    pub live: Option<Live>,
}

/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Requests being answered.
#[derive(Clone, Default)]
struct UnderWay(Arc<AtomicUsize>);

/// A running server.
pub struct Api {
    handle: ServerHandle,
    under_way: UnderWay,
    address: SocketAddr,
}

impl Api {
    /// Serves `services` and health on `listener`; only health if there are none. Must be called on a Tokio runtime;
    /// it serves from threads of its own.
    ///
    /// # Errors
    /// If the listener cannot be used.
    pub fn start(
        listener: TcpListener,
        options: ApiOptions,
        services: Option<Services>,
        readiness: Readiness,
    ) -> std::io::Result<Api> {
        let address = listener.local_addr()?;
        let under_way = UnderWay::default();
        let server = server(listener, options, services, readiness, under_way.clone())?;
        let handle = server.handle();
        tokio::spawn(server);
        Ok(Api { handle, under_way, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts no more connections and waits until the requests under way are answered, at most until `deadline`.
    /// [`Readiness::stopping`] must be cancelled before: it makes the server ask clients to close.
    pub async fn stop(self, deadline: Duration) {
        self.handle.pause().await;
        let answered = async {
            while self.under_way.0.load(Ordering::Acquire) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // An answer counts as given when it is handed to the connection; this lets the connection write it.
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        if tokio::time::timeout(deadline, answered).await.is_err() {
            tracing::warn!("some requests were still under way: they are cut off");
        }
        self.handle.stop(false).await;
    }
}

fn server(
    listener: TcpListener,
    options: ApiOptions,
    services: Option<Services>,
    readiness: Readiness,
    under_way: UnderWay,
) -> std::io::Result<Server> {
    let stopping = readiness.stopping.clone();
    let streams = Streams::new(options.streams, stopping.clone());
    let services = services.map(|services| SharedServices {
        orders: web::Data::new(services.orders),
        life: web::Data::new(services.life),
        dead_letters: web::Data::new(services.dead_letters),
        stages: web::Data::new(services.stages),
        streams: web::Data::new(streams),
        live: web::Data::new(services.live),
        webhooks: web::Data::new(services.webhooks),
    });
    let readiness = web::Data::new(readiness);
    let threads = options.threads.max(1);
    let server = HttpServer::new(move || {
        let (under_way, stopping) = (under_way.clone(), stopping.clone());
        App::new()
            .wrap_fn(move |request, service| {
                let (under_way, stopping) = (UnderWayGuard::new(&under_way), stopping.clone());
                let answer = service.call(request);
                async move {
                    let mut response = answer.await?;
                    if stopping.is_cancelled() {
                        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    drop(under_way);
                    Ok(response)
                }
            })
            .app_data(readiness.clone())
            .configure(|app| routes(app, services.clone()))
            .default_service(web::to(problem::no_such_path))
    })
    .workers(threads)
    .max_connections(options.connections_max.div_ceil(threads))
    .client_request_timeout(options.request_timeout)
    .keep_alive(KEEP_ALIVE)
    .disable_signals()
    .listen(listener)?
    .run();
    Ok(server)
}

#[derive(Clone)]
struct SharedServices {
    orders: web::Data<Orders>,
    life: web::Data<Life>,
    dead_letters: web::Data<DeadLetterOffice>,
    stages: web::Data<Stages>,
    streams: web::Data<Streams>,
    live: web::Data<Option<Live>>,
    webhooks: web::Data<WebhookOffice>,
}

fn routes(app: &mut web::ServiceConfig, services: Option<SharedServices>) {
    if let Some(SharedServices { orders, life, dead_letters, stages, streams, live, webhooks }) = services {
        order_routes(app.app_data(orders).app_data(life).app_data(streams).app_data(live));
        dead_letter_routes(app.app_data(dead_letters));
        stage_routes(app.app_data(stages));
        webhook_routes(app.app_data(webhooks));
    }
    app.service(web::resource("/healthz").route(get_or_head().to(health::healthz)).default_service(only("GET, HEAD")))
        .service(web::resource("/metrics").route(get_or_head().to(health::metrics)).default_service(only("GET, HEAD")))
        .service(web::resource("/readyz").route(get_or_head().to(health::readyz)).default_service(only("GET, HEAD")));
}

fn order_routes(app: &mut web::ServiceConfig) {
    app.service(web::resource("/v1/orders").route(web::post().to(orders::place)).default_service(only("POST")))
        // Before the ids: `retry` is none.
        .service(
            web::resource("/v1/orders/retry").route(web::post().to(life::retry_many)).default_service(only("POST")),
        )
        .service(
            web::resource("/v1/orders/{id}").route(get_or_head().to(orders::find)).default_service(only("GET, HEAD")),
        )
        .service(
            web::resource("/v1/orders/{id}/events").route(web::get().to(events::of_order)).default_service(only("GET")),
        )
        .service(web::resource("/v1/events").route(web::get().to(events::of_all)).default_service(only("GET")))
        .service(
            web::resource("/v1/orders/{id}/cancel").route(web::post().to(life::cancel)).default_service(only("POST")),
        )
        .service(
            web::resource("/v1/orders/{id}/retry").route(web::post().to(life::retry)).default_service(only("POST")),
        );
}

fn dead_letter_routes(app: &mut web::ServiceConfig) {
    app.service(
        web::resource("/v1/dead-letters")
            .route(get_or_head().to(dead_letters::list))
            .route(web::delete().to(dead_letters::remove_many))
            .default_service(only("GET, HEAD, DELETE")),
    )
    // Before the ids: `replay` is none.
    .service(
        web::resource("/v1/dead-letters/replay")
            .route(web::post().to(dead_letters::replay_many))
            .default_service(only("POST")),
    )
    .service(
        web::resource("/v1/dead-letters/{id}")
            .route(get_or_head().to(dead_letters::show))
            .route(web::delete().to(dead_letters::remove))
            .default_service(only("GET, HEAD, DELETE")),
    )
    .service(
        web::resource("/v1/dead-letters/{id}/replay")
            .route(web::post().to(dead_letters::replay))
            .default_service(only("POST")),
    );
}

fn stage_routes(app: &mut web::ServiceConfig) {
    app.service(web::resource("/v1/stages").route(get_or_head().to(stages::list)).default_service(only("GET, HEAD")))
        .service(
            web::resource("/v1/stages/{stage}/pause")
                .route(web::post().to(stages::pause))
                .default_service(only("POST")),
        )
        .service(
            web::resource("/v1/stages/{stage}/resume")
                .route(web::post().to(stages::resume))
                .default_service(only("POST")),
        );
}

fn webhook_routes(app: &mut web::ServiceConfig) {
    app.service(
        web::resource("/v1/webhooks")
            .route(get_or_head().to(webhooks::list))
            .route(web::post().to(webhooks::add))
            .default_service(only("GET, HEAD, POST")),
    )
    .service(
        web::resource("/v1/webhooks/{id}").route(web::delete().to(webhooks::remove)).default_service(only("DELETE")),
    )
    .service(
        web::resource("/v1/webhooks/{id}/test").route(web::post().to(webhooks::test)).default_service(only("POST")),
    );
}

/// An answer of 200 that nobody keeps.
fn answer(json: &serde_json::Value) -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(json)
}

fn get_or_head() -> actix_web::Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

/// Answers every method a path has not.
fn only(allow: &'static str) -> actix_web::Route {
    web::to(move |request: HttpRequest| async move {
        let answer: HttpResponse = Problem::method_not_allowed(request.method().as_str(), allow).error_response();
        answer
    })
}

/// Counts a request as under way until it is dropped, however it ends.
struct UnderWayGuard(Arc<AtomicUsize>);

impl UnderWayGuard {
    fn new(under_way: &UnderWay) -> Self {
        under_way.0.fetch_add(1, Ordering::AcqRel);
        UnderWayGuard(under_way.0.clone())
    }
}

impl Drop for UnderWayGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
