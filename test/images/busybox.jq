# The specification of the busybox images for mkimage; $w is the folder of the tar files.
def layer($name; $compression): {tar: ($w + $name + ".tar"), compression: $compression};
def layer($name): layer($name; "gzip");
def env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
def image($layers): {config: {Cmd: ["sh"], Env: env}, layers: $layers};
def single($tag; $layers): {tag: $tag, manifests: [image($layers)]};

[
  single("latest"; [layer("base"), layer("extra")]),
  single("zstd"; [layer("base"; "zstd"), layer("extra"; "zstd")]),
  single("plain"; [layer("base"; "none"), layer("extra"; "none")]),
  single("kinds"; [layer("base"), layer("variety"), layer("change"; "zstd")]),
  single("big"; [layer("base"), layer("big")]),
  {tag: "multi", manifests: [
    image([layer("base"), layer("amd64")]) + {platform: "linux/amd64"},
    image([layer("base"), layer("arm64")]) + {platform: "linux/arm64"},
    image([layer("base"), layer("arm")]) + {platform: "linux/arm/v7"}]},
  {tag: "foreign", manifests: [
    image([layer("base"), layer("arm64")]) + {platform: "linux/s390x"},
    image([layer("base"), layer("arm")]) + {platform: "linux/ppc64le"}]},
  {tag: "config", manifests: [{
    config: {
      Entrypoint: ["/bin/echo", "entry"], Cmd: ["default"], Env: (env + ["FROM_IMAGE=yes", "COLOR=blue"]),
      User: "app", WorkingDir: "/home/app", Volumes: {"/data": {}}, ExposedPorts: {"80/tcp": {}, "53/udp": {}},
      StopSignal: "SIGUSR1", Labels: {"org.example.a": "1", "org.example.b": "two words"}},
    layers: [layer("base"), layer("extra")]}]},
  # eight images of overlapping layers
  (range(1; 9) as $i | single("shared\($i)"; [layer("base")] + [range(0; 4) as $j | layer("n\(($i + $j) % 6 + 1)")]))
]
