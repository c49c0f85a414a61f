<?php
// PHP-FPM behind nginx, client curl.
// Typical: a process of the pool serves one request at a time, and forgets all after it: its
// curl handles too, so each request opens connections of its own. What runs behind the answer
// does so after fastcgi_finish_request. The datastore's connection is the process's.

$next = 'http://' . getenv('NEXT');
$curl = curl_init();

function prepared($curl, string $url)
{
    curl_setopt_array($curl, [
        CURLOPT_URL => $url,
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_TIMEOUT => 20,
        CURLOPT_PROXY => '',
    ]);
    return $curl;
}

function get(string $path): int
{
    global $curl, $next;
    curl_exec(prepared($curl, $next . $path));
    return curl_getinfo($curl, CURLINFO_RESPONSE_CODE);
}

function query(string $key): void
{
    [$host, $port] = explode(':', getenv('STORE'));
    $connection = pfsockopen($host, (int) $port);
    fwrite($connection, "query $key\n");
    if (fgets($connection) !== "row $key\n") {
        throw new Exception('wrong row');
    }
}

function answer(int $status, string $text): void
{
    http_response_code($status);
    header('Content-Type: text/plain');
    header('Content-Length: ' . strlen($text));
    echo $text;
}

if (!preg_match('#^/(\w+)/(\d+)$#', $_SERVER['REQUEST_URI'], $found)) {
    answer(404, 'not found');
    return;
}
[, $pattern, $id] = $found;
switch ($pattern) {
    case 'one':
        get("/one/$id/0");
        break;
    case 'sequence':
        for ($i = 0; $i < 3; $i++) {
            get("/sequence/$id/$i");
        }
        break;
    case 'parallel':
        $all = curl_multi_init();
        for ($i = 0; $i < 3; $i++) {
            curl_multi_add_handle($all, prepared(curl_init(), "$next/parallel/$id/$i"));
        }
        do {
            curl_multi_exec($all, $running);
            curl_multi_select($all);
        } while ($running > 0);
        break;
    case 'timer':
        usleep(20000);
        get("/timer/$id/0");
        break;
    case 'background':
        answer(200, 'ok');
        fastcgi_finish_request();
        usleep(30000);
        get("/background/$id/0");
        return;
    case 'retry':
        if (get("/retry/$id/0") === 503) {
            get("/retry/$id/1");
        }
        break;
    case 'datastore':
        query($id);
        get("/datastore/$id/0");
        break;
    default:
        answer(404, 'not found');
        return;
}
answer(200, 'ok');
