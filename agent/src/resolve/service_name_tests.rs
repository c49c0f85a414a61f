use super::*;

fn name(executable: &str, command: &str) -> String {
    let args: Vec<String> = command.split(' ').map(str::to_owned).collect();
    derive(executable, &args).to_owned()
}

#[track_caller]
fn check(cases: &[(&str, &str, &str)]) {
    for &(executable, command, expected) in cases {
        assert_eq!(name(executable, command), expected, "{command}");
    }
}

#[test]
fn an_ordinary_program_is_called_by_its_own_name() {
    check(&[
        ("nginx", "nginx -g daemon off;", "nginx"),
        ("envoy", "/usr/local/bin/envoy -c x.yaml", "envoy"),
        ("php-fpm8.2", "php-fpm: pool www", "php-fpm8.2"),
        ("busybox", "httpd -f", "httpd"),
    ]);
}

#[test]
fn python_services_are_called_by_their_script_or_module() {
    check(&[
        ("python3.11", "python3 app.py", "app"),
        ("python3.11", "python3 -u /srv/cart/cart.py --port 80", "cart"),
        ("python3", "python3 -m pkg.mod --x", "pkg.mod"),
        ("python3", "python3 -um pkg.mod", "pkg.mod"),
        ("python3", "python3 -mpkg.mod", "pkg.mod"),
        ("python3", "python3 -W ignore -X dev app.py", "app"),
        ("python3", "python3 -Wignore app.py", "app"),
        ("python3", "python3 -m http.server 80", "http.server"),
        ("python3", "python3 /srv/shop/__main__.py", "shop"),
        ("python3.11", "python3 -c print(1)", "python3.11"),
        ("python3.11", "python3", "python3.11"),
        ("python3.11", "python3 -", "python3.11"),
        ("pypy3", "pypy3 app.py", "app"),
    ]);
}

#[test]
fn an_application_server_is_called_by_its_application() {
    check(&[
        (
            "python3",
            "/usr/bin/python3 /usr/bin/gunicorn -w 4 -b localhost:8000 shop.wsgi:app",
            "shop",
        ),
        ("python3", "python3 /usr/bin/uvicorn cart.main:create_app() --port 80", "cart.main"),
        ("python3", "python3 -m uvicorn cart:app", "cart"),
        ("python3", "python3 -m gunicorn proj.wsgi", "proj"),
        ("python3", "python3 /usr/bin/gunicorn -b 0.0.0.0:80", "gunicorn"),
        ("uwsgi", "uwsgi --http :80 --module shop.wsgi:app", "shop"),
    ]);
}

#[test]
fn a_title_written_over_the_arguments_still_names_the_application() {
    let title = |executable, title: &str| derive(executable, &[title.to_owned()]).to_owned();
    assert_eq!(title("python3", "gunicorn: worker [shop:app]"), "shop");
    assert_eq!(title("ruby", "puma 6.4.0 (tcp://0.0.0.0:80) [checkout]"), "checkout");
    assert_eq!(title("node", "npm start"), "npm");
}

#[test]
fn node_services_are_called_by_their_script() {
    check(&[
        ("node", "node server.js", "server"),
        ("node", "node --max-old-space-size=512 -r ./trace.js /srv/web/index.mjs", "web"),
        ("nodejs", "nodejs --require x app.cjs", "app"),
        ("node", "node --import tsx src/api.ts", "api"),
        ("node", "node dist/index.js", "index"),
        ("node", "node -e 1", "node"),
        ("deno", "deno run -A main.ts", "main"),
        ("bun", "bun run server.ts", "server"),
    ]);
}

#[test]
fn java_services_are_called_by_their_archive_or_class() {
    check(&[
        ("java", "java -Xmx1g -jar /opt/orders.jar --spring", "orders"),
        ("java", "java -cp a.jar:b.jar -Dx=y com.example.Orders arg", "com.example.Orders"),
        ("java", "java -p mods -m shop.orders/shop.Main", "shop.orders"),
        ("java", "java --add-opens java.base/java.lang=ALL-UNNAMED -jar x.jar", "x"),
    ]);
}

#[test]
fn other_interpreters_are_called_by_their_script() {
    check(&[
        ("ruby3.1", "ruby -I lib -r json bin/checkout.rb", "checkout"),
        ("ruby", "ruby /usr/bin/rackup config.ru", "rackup"),
        ("perl", "perl -I lib -w stock.pl", "stock"),
        ("perl", "perl -e 1", "perl"),
        ("php8.2", "php -d x=1 worker.php", "worker"),
        ("php", "php -S 0.0.0.0:80 -t public router.php", "router"),
        ("php", "php -S 0.0.0.0:80", "php"),
        ("bash", "/bin/bash ./serve.sh", "serve"),
        ("dash", "sh -c ./serve", "dash"),
        ("dotnet", "dotnet Shop.Api.dll", "Shop.Api"),
    ]);
}

#[test]
fn the_runtime_is_said_only_where_it_is_certain() {
    assert_eq!(runtime("python3.11"), Some("cpython"));
    assert_eq!(runtime("node"), Some("nodejs"));
    assert_eq!(runtime("java"), None);
    assert_eq!(runtime("nginx"), None);
    assert_eq!(runtime("pythonista"), None);
}
