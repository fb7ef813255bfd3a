//! `/api/v1/session`

use crate::harness::World;
use serde_json::json;

async fn sign_in(world: &World, user: &str, password: &str) -> reqwest::Response {
    let body = json!({"user": user, "password": password});
    world.http.post(format!("{}/api/v1/session", world.base)).json(&body).send().await.unwrap()
}

#[tokio::test]
async fn the_generated_password_signs_in_and_signing_out_ends_the_session() {
    let world = World::new().await;
    let password = world.server.initial_password().unwrap().expose().to_owned();
    let file = std::fs::read_to_string(world.directory.path().join("server/initial-password")).unwrap();
    assert_eq!(file.trim(), password);
    let answer = sign_in(&world, "admin", &password).await;
    assert_eq!(answer.status(), 204);
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let info = world.http.get(format!("{}/api/v1/info", world.base)).header("cookie", &cookie);
    assert!(world.send(info).await.text.contains("user admin"));

    let forged = world.http.post(format!("{}/api/v1/tokens", world.base)).header("cookie", &cookie);
    let forged = forged.json(&json!({"name": "x", "purpose": {"kind": "api"}}));
    let foreign = forged.try_clone().unwrap().header("origin", "http://evil.example");
    world.send(forged.try_clone().unwrap()).await.error(401);
    world.send(foreign).await.error(401);
    let meant = forged.header("origin", &world.base);
    assert_eq!(world.send(meant).await.status, 201);

    let out = world.http.delete(format!("{}/api/v1/session", world.base)).header("cookie", &cookie);
    assert_eq!(world.send(out.header("x-mainstay-request", "1")).await.status, 204);
    let info = world.http.get(format!("{}/api/v1/info", world.base)).header("cookie", &cookie);
    world.send(info).await.error(401);
}

#[tokio::test]
async fn guessing_gets_the_same_answer_for_every_user_and_is_slowed_down() {
    let world = World::new().await;
    let wrong = sign_in(&world, "admin", "guess").await;
    let unknown = sign_in(&world, "nobody", "guess").await;
    assert_eq!(
        (wrong.status(), unknown.status()),
        (reqwest::StatusCode::UNAUTHORIZED, reqwest::StatusCode::UNAUTHORIZED)
    );
    let message = |text: String| serde_json::from_str::<api::error::ApiError>(&text).unwrap().message;
    assert_eq!(message(wrong.text().await.unwrap()), message(unknown.text().await.unwrap()));
    let mut slowed = None;
    for _ in 0..6 {
        let answer = sign_in(&world, "admin", "guess").await;
        if answer.status() == 429 {
            slowed = Some(answer);
            break;
        }
    }
    let slowed = slowed.expect("the sixth try has to wait");
    assert!(slowed.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
}
