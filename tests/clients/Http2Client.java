import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.Arrays;
import java.util.ArrayList;
import java.util.concurrent.CompletableFuture;

/** Http2Client http://HOST:PORT: the JDK's client, which asks for h2c with each first request of a connection. */
public class Http2Client {
    public static void main(String[] arguments) throws Exception {
        var base = arguments[0];
        for (int size : new int[] {0, 1, 65535, 65536, 70000, 3000000}) {
            byte[] expected = bytes(size);
            for (int round = 0; round < 5; round++) {
                // A new client each time, so that each asks for the upgrade.
                check("GET of " + size, expected, client().send(get(base + "/bytes?" + size), HttpResponse.BodyHandlers.ofByteArray()));
                for (boolean expects : new boolean[] {false, true}) {
                    var post = HttpRequest.newBuilder(URI.create(base + "/bytes")).expectContinue(expects)
                        .POST(HttpRequest.BodyPublishers.ofByteArray(expected)).build();
                    check("POST of " + size + ", expecting a 100: " + expects, expected,
                        client().send(post, HttpResponse.BodyHandlers.ofByteArray()));
                }
            }
        }
        var client = client();
        var answers = new ArrayList<CompletableFuture<HttpResponse<byte[]>>>();
        for (int number = 0; number < 100; number++) {
            answers.add(client.sendAsync(get(base + "/bytes?" + number * 100), HttpResponse.BodyHandlers.ofByteArray()));
        }
        for (int number = 0; number < 100; number++) {
            check("GET " + number + " of 100", bytes(number * 100), answers.get(number).get());
        }
        System.out.println("ok      JDK " + System.getProperty("java.version") + ": GET and POST from 0 to 3000000 bytes, 100 at once");
    }

    static HttpClient client() {
        return HttpClient.newBuilder().version(HttpClient.Version.HTTP_2).build();
    }

    static HttpRequest get(String uri) {
        return HttpRequest.newBuilder(URI.create(uri)).build();
    }

    static byte[] bytes(int count) {
        var bytes = new byte[count];
        for (int place = 0; place < count; place++) bytes[place] = (byte) (place % 251);
        return bytes;
    }

    static void check(String what, byte[] expected, HttpResponse<byte[]> answer) {
        if (answer.statusCode() != 200 || answer.version() != HttpClient.Version.HTTP_2 || !Arrays.equals(expected, answer.body())) {
            System.out.println("FAILED  " + what + ": " + answer.statusCode() + " " + answer.version() + ", " + answer.body().length + " bytes");
            System.exit(1);
        }
    }
}
