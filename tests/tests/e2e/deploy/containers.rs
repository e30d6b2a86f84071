//! The image, `compose.yaml`, and the manifests for Kubernetes: what can be seen of them without an engine.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use outbox_bridge::config::Config;
use outbox_bridge_tests::{Bridge, World};
use serde_json::{Value, json};

use crate::deploy::{deploy, read, yaml};

const SECRETS: &str = "/run/secrets/";
const LISTEN: &str = "OUTBOX_BRIDGE__HTTP__LISTEN";

/// Loads a configuration whose secrets are those files in `/run/secrets`, as the bridge does.
fn load(path: &str, secrets: &[&str], variables: &[(&str, &str)]) -> Result<Config> {
    let folder = tempfile::tempdir()?;
    for secret in secrets {
        std::fs::write(folder.path().join(secret), "secret")?;
    }
    let moved = |text: &str| text.replace(SECRETS, &format!("{}/", folder.path().display()));
    let file = folder.path().join("bridge.toml");
    std::fs::write(&file, moved(&read(path)?))?;
    Ok(Config::load_with(&file, variables.iter().map(|(name, value)| ((*name).to_owned(), moved(value))))?)
}

fn texts<'a>(value: &'a Value, pointer: &str) -> Vec<&'a str> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn the_image_is_small_and_not_roots() -> Result<()> {
    let text = read("Dockerfile")?;
    let (_, last) = text.rsplit_once("\nFROM ").context("no stages")?;
    ensure!(text.matches("\nFROM ").count() == 2 && last.contains("distroless") && !last.contains("\nRUN "));
    let line = |name: &str| {
        let line = last.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        line.with_context(|| format!("no {name}"))
    };
    let user: u32 = line("USER")?.split(':').next().unwrap_or_default().parse()?;
    ensure!(user > 0);
    let (_, check) = line("HEALTHCHECK")?.split_once("CMD ").context("no command")?;
    let check: Vec<String> = serde_json::from_str(check)?;
    let entry: Vec<String> = serde_json::from_str(line("ENTRYPOINT")?)?;
    ensure!(check == [entry.first().context("no program")?, "health"], "{check:?}");
    ensure!(last.contains(&format!("{LISTEN}=0.0.0.0:9464")) && line("EXPOSE")? == "9464");
    // What is left out of the build's context must not be missed by cargo.
    let ignored = std::fs::read_to_string(deploy("../.dockerignore"))?;
    let workspace = std::fs::read_to_string(deploy("../Cargo.toml"))?;
    let members = workspace.lines().find(|line| line.starts_with("members")).context("no members")?;
    for member in members.split('"').skip(1).step_by(2) {
        let folder = member.trim_end_matches("/*");
        ensure!(ignored.contains(&format!("\n!{folder}\n")), "{folder} is left out of the context");
    }
    Ok(())
}

/// `health` says of the bridge beside it what `/readyz` says.
#[tokio::test]
async fn health_is_readiness() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge: Bridge = world.bridge().await?;
    let (code, text) = bridge.command(&["health"])?;
    ensure!(code == 0 && text.contains("\"ready\":true"), "{code}: {text}");
    world.nats.pause()?;
    let limit = std::time::Duration::from_secs(15);
    testbed::eventually("the bridge to be unwell", limit, async || {
        let (code, text) = bridge.command(&["health"])?;
        Ok((code == 69 && text.contains("\"ready\":false")).then_some(()))
    })
    .await?;
    world.nats.resume()?;
    bridge.kill()?;
    let (code, text) = bridge.command(&["health"])?;
    ensure!(code == 69 && text.contains("no bridge answers"), "{code}: {text}");
    let off = world.settings().set("http.listen", "off");
    let (code, text) = Bridge::once(&off, &["health"])?;
    ensure!(code == 78 && text.contains("http.listen"), "{code}: {text}");
    // The same table as everywhere.
    let (_, table) = Bridge::once(&world.settings(), &["init", "--print", "table"])?;
    ensure!(read("mysql/outbox.sql")?.ends_with(&table), "mysql/outbox.sql should end with\n{table}");
    Ok(())
}

#[test]
fn compose_fits_together() -> Result<()> {
    let documents = yaml("compose.yaml")?;
    let [compose] = &*documents else { bail!("not one document") };
    let services = compose.get("services").and_then(Value::as_object).context("no services")?;
    for name in ["mysql", "nats", "bridge", "prometheus", "grafana"] {
        ensure!(services.contains_key(name), "no service {name}");
    }
    for (name, service) in services {
        let mut service = service.clone();
        if let Some(merged) = service.get("<<").cloned() {
            merge(&mut service, &merged);
        }
        for volume in texts(&service, "/volumes") {
            let (from, _) = volume.split_once(':').with_context(|| volume.to_owned())?;
            let exists = match from.strip_prefix("./") {
                Some(path) => deploy(path).exists(),
                None => compose.pointer(&format!("/volumes/{from}")).is_some(),
            };
            ensure!(exists, "{name} mounts {from}, which is not there");
        }
        let secrets = texts(&service, "/secrets");
        for secret in &secrets {
            let file = compose.pointer(&format!("/secrets/{secret}/file")).and_then(Value::as_str);
            ensure!(file == Some(&*format!("./secrets/{secret}")), "{name}: {secret} is {file:?}");
            let script = read("compose/secrets.sh")?;
            let made = secret.trim_end_matches("-password");
            ensure!(script.contains(&format!(" {made} ")) || script.contains(&format!(" {made};")), "{made}");
        }
        let dependencies = service.get("depends_on").and_then(Value::as_object);
        for (other, condition) in dependencies.into_iter().flatten() {
            let other = services.get(other).with_context(|| format!("{name} depends on {other}"))?;
            let healthy = condition.pointer("/condition") == Some(&json!("service_healthy"));
            ensure!(!healthy || other.get("healthcheck").is_some(), "{name} waits for ever");
        }
        if name == "bridge" || name == "init" {
            ensure!(
                service.get("read_only") == Some(&json!(true)) && texts(&service, "/cap_drop") == ["ALL"]
            );
            ensure!(texts(&service, "/security_opt") == ["no-new-privileges:true"]);
            let variables = service.get("environment").and_then(Value::as_object);
            let variables: Vec<(&str, &str)> = variables
                .into_iter()
                .flatten()
                .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
                .collect();
            load("compose/bridge.toml", &secrets, &variables)?;
        }
        if name == "bridge" {
            ensure!(texts(&service, "/ports") == ["127.0.0.1:9464:9464"], "nobody can open its page");
        }
    }
    Ok(())
}

/// As `<<` in YAML does: what is there stays.
fn merge(into: &mut Value, from: &Value) {
    if let (Some(into), Some(from)) = (into.as_object_mut(), from.as_object()) {
        for (key, value) in from {
            into.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// The manifest of this kind among the resources of the kustomization.
fn manifest(kind: &str) -> Result<Value> {
    let kustomization = yaml("kubernetes/kustomization.yaml")?;
    for resource in kustomization.iter().flat_map(|document| texts(document, "/resources")) {
        let found = yaml(&format!("kubernetes/{resource}"))?;
        if let Some(found) = found.into_iter().find(|document| document.get("kind") == Some(&json!(kind))) {
            return Ok(found);
        }
    }
    bail!("no {kind}")
}

#[test]
fn kubernetes_pods_are_confined() -> Result<()> {
    let deployment = manifest("Deployment")?;
    let at = |pointer: &str| deployment.pointer(pointer).cloned().unwrap_or_default();
    let pod = |pointer: &str| at(&format!("/spec/template/spec{pointer}"));
    for (pointer, expected) in [
        ("/securityContext/runAsNonRoot", json!(true)),
        ("/securityContext/seccompProfile/type", json!("RuntimeDefault")),
        ("/automountServiceAccountToken", json!(false)),
        ("/containers/0/securityContext/readOnlyRootFilesystem", json!(true)),
        ("/containers/0/securityContext/allowPrivilegeEscalation", json!(false)),
        ("/containers/0/securityContext/capabilities/drop", json!(["ALL"])),
        ("/containers/0/readinessProbe/httpGet/path", json!("/readyz")),
        ("/containers/0/livenessProbe/httpGet/path", json!("/livez")),
        ("/containers/0/ports/0/containerPort", json!(9464)),
    ] {
        ensure!(pod(pointer) == expected, "{pointer} is {}", pod(pointer));
    }
    ensure!(at("/spec/replicas") == json!(2));
    ensure!(pod("/containers/0/resources/limits/memory").is_string());

    // Every selector means these pods.
    let labels = at("/spec/template/metadata/labels");
    ensure!(labels.as_object().is_some_and(|labels| !labels.is_empty()));
    for (kind, pointer) in [
        ("Deployment", "/spec/selector/matchLabels"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
        ("Service", "/spec/selector"),
    ] {
        ensure!(manifest(kind)?.pointer(pointer) == Some(&labels), "{kind} selects other pods");
    }
    ensure!(manifest("PodDisruptionBudget")?.pointer("/spec/minAvailable") == Some(&json!(1)));
    ensure!(texts(&manifest("NetworkPolicy")?, "/spec/policyTypes") == ["Ingress", "Egress"]);
    Ok(())
}

#[test]
fn kubernetes_configuration_is_accepted() -> Result<()> {
    let deployment = manifest("Deployment")?;
    let pod = deployment.pointer("/spec/template/spec").context("no pod")?;
    let volume = |name: &str| {
        let volumes = pod.get("volumes").and_then(Value::as_array).into_iter().flatten();
        volumes
            .into_iter()
            .find(|volume| volume.get("name") == Some(&json!(name)))
            .cloned()
            .unwrap_or_default()
    };
    let mount = |name: &str| {
        let mounts =
            pod.pointer("/containers/0/volumeMounts").and_then(Value::as_array).into_iter().flatten();
        let mount = mounts.into_iter().find(|mount| mount.get("name") == Some(&json!(name)));
        mount.and_then(|mount| mount.get("mountPath")?.as_str()).unwrap_or_default()
    };
    let kustomization = yaml("kubernetes/kustomization.yaml")?;
    let generated =
        kustomization.first().context("empty")?.pointer("/configMapGenerator/0").cloned().unwrap_or_default();
    ensure!(volume("config").pointer("/configMap/name") == generated.get("name"));
    ensure!(texts(&generated, "/files") == ["bridge.toml"]);
    let config_path = Path::new(mount("config")).join("bridge.toml").display().to_string();
    ensure!(texts(pod, "/containers/0/args") == ["run", "--config", &config_path]);
    ensure!(
        volume("secrets").pointer("/secret/secretName").is_some()
            && format!("{}/", mount("secrets")) == SECRETS
    );

    let variable = pod.pointer("/containers/0/env/0").context("no variable")?;
    ensure!(variable.get("name") == Some(&json!(LISTEN)));
    let listen = variable.get("value").and_then(Value::as_str).context("no value")?;
    let config = load("kubernetes/bridge.toml", &["mysql-password", "nats-password"], &[(LISTEN, listen)])?;
    ensure!(
        config.http.listen.is_some_and(|address| address.port() == 9464 && address.ip().is_unspecified())
    );
    let grace = pod.get("terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or_default();
    ensure!(grace > config.shutdown.deadline.as_secs() + 5, "{grace} s");
    Ok(())
}
