"""Faces found, aligned and known, against insightface's procedure restated in float64 and networks
run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import sdcore
import tiny_faces
from sdcore import CheckpointError, FaceAnalysis, FileError, UnsupportedModelError
from sdcore.faces import alignment, detection, resampling

STRIDES = (8, 16, 32)


def smooth(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A picture [height, width, 3] without sharp edges, in which a part of a pixel is a level."""
    seeds = np.random.default_rng(seed).random((1, 3, height // 24 + 2, width // 24 + 2))
    big = F.interpolate(torch.from_numpy(seeds), (height, width), mode="bicubic")[0]
    return (big.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


# ---- the procedure, one box and one number at a time ---------------------------------------------


def published(
    outputs: list[np.ndarray], width: int, height: int, scale: float, threshold: float
) -> list[tuple[np.ndarray, float, np.ndarray]]:
    """insightface's scrfd.py: forward, detect and nms."""
    found = []
    for level, stride in enumerate(STRIDES):
        scores, boxes, points = (outputs[level + part].astype(np.float64) for part in (0, 3, 6))
        i = 0
        for y in range(height // stride):
            for x in range(width // stride):
                for _ in range(2):
                    at = np.array([x, y], np.float64) * stride
                    score = scores.reshape(-1)[i]
                    if score >= threshold:
                        left, top, right, bottom = boxes.reshape(-1, 4)[i] * stride
                        box = [at[0] - left, at[1] - top, at[0] + right, at[1] + bottom]
                        kps = at + points.reshape(-1, 5, 2)[i] * stride
                        found.append((np.array(box) / scale, score, kps / scale))
                    i += 1
    kept: list[tuple[np.ndarray, float, np.ndarray]] = []
    for face in sorted(found, key=lambda one: -one[1]):
        if all(overlap(face[0], other[0]) <= 0.4 for other in kept):
            kept.append(face)
    return kept


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return float(width * height / (sum(areas) - width * height))


def umeyama(points: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Umeyama 1991, by singular values, as skimage's SimilarityTransform."""
    around, about = points - points.mean(0), to - to.mean(0)
    u, s, vt = np.linalg.svd(about.T @ around / len(points))
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    turn = u @ np.diag(signs) @ vt
    scale = (s * signs).sum() / around.var(0).sum()
    shift = to.mean(0) - scale * turn @ points.mean(0)
    return np.hstack([scale * turn, shift[:, None]])


@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 160)])
def test_decoding(width: int, height: int) -> None:
    random = np.random.default_rng(3)
    sizes = [height // s * (width // s) * 2 for s in STRIDES]
    outputs = [random.random((n, 1), np.float32) for n in sizes]
    outputs += [random.uniform(0.2, 4, (n, 4)).astype(np.float32) for n in sizes]
    outputs += [random.normal(0, 2, (n, 10)).astype(np.float32) for n in sizes]
    want = published(outputs, width, height, 0.3, 0.7)
    batch = [one[None] for one in outputs]  # as later exports have it
    for given in (outputs, batch):
        got = detection.decoded(given, height, width, 0.3, 0.7, "x.onnx")
        assert len(want) == len(got.scores) > 10
        for (box, score, kps), *ours in zip(want, got.boxes, got.scores, got.points, strict=True):
            for ref, out in zip((box, score, kps), ours, strict=True):
                np.testing.assert_allclose(out, ref, rtol=1e-5, atol=1e-4)
    assert got.best == max(one.max() for one in outputs[:3])


def test_outputs_that_are_not_scrfd_s() -> None:
    ends = [np.zeros((n * 2, each), np.float32) for each in (1, 4, 10) for n in (96, 24, 6)]
    with pytest.raises(UnsupportedModelError, match=r"scores \[192, 1\] for steps of 8 pixels"):
        detection.decoded(ends, 64, 64, 1.0, 0.5, "x.onnx")
    ends[4][3, 1] = np.nan
    with pytest.raises(CheckpointError, match="numbers that are none"):
        detection.decoded(ends, 96, 64, 1.0, 0.5, "x.onnx")


@pytest.mark.parametrize("size", [(640, 426), (100, 231), (300, 200)])
def test_resizing(size: tuple[int, int]) -> None:
    pixels = smooth(300, 200)
    ref = torch.from_numpy(pixels).double().permute(2, 0, 1)[None]
    ref = F.interpolate(ref, size[::-1], mode="bilinear", align_corners=False)
    out = resampling.resized(pixels, *size).astype(float)
    assert np.abs(out - ref[0].permute(1, 2, 0).numpy()).max() <= 1  # the last place of 8 bits


def test_alignment() -> None:
    random = np.random.default_rng(5)
    pixels = smooth(260, 190, seed=1)
    height, width = pixels.shape[:2]
    for turn in (0.1, -2.5, 1.5):
        spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        kps = (alignment.TEMPLATE - 56) @ spin.T * random.uniform(0.4, 1.5) + (120, 90)
        kps += random.normal(0, 3, kps.shape)
        matrix = umeyama(kps, alignment.TEMPLATE)
        got = alignment.similarity(kps, alignment.TEMPLATE)
        np.testing.assert_allclose(got, matrix, rtol=1e-9, atol=1e-9)
        # Places of the face in the picture, of which torch counts the whole from -1 to 1.
        inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
        y, x = np.mgrid[:112, :112]
        places = np.stack([x, y, np.ones_like(x)], -1) @ inverse[:2].T
        grid = torch.from_numpy(places / [(width - 1) / 2, (height - 1) / 2] - 1)[None]
        ref = F.grid_sample(torch.from_numpy(pixels).double().permute(2, 0, 1)[None], grid,
                            align_corners=True, padding_mode="zeros")  # fmt: skip
        ref = ref[0].permute(1, 2, 0).numpy()
        inside = ((places > 0) & (places < [width - 1, height - 1])).all(-1)
        outside = ((places < -1.1) | (places > [width + 0.1, height + 0.1])).any(-1)
        out = alignment.aligned(pixels, kps.astype(np.float32)).astype(float)
        assert inside.sum() > 3000 and np.abs(out - ref)[inside].max() <= 1
        assert (out[outside] == 0).all()
    with pytest.raises(sdcore.InvalidArgumentError, match="in one place"):
        alignment.aligned(pixels, np.ones((5, 2), np.float32))


# ---- whole ---------------------------------------------------------------------------------------

SUREST = -5.0  # at which there are some faces


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_faces.pack(tmp_path_factory.mktemp("faces") / "antelopev2", surest=SUREST)


@pytest.fixture(scope="module")
def analysis(pack: Path) -> FaceAnalysis:
    return FaceAnalysis.from_pretrained(pack)


def run(path: Path, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input.1": x.astype(np.float32)})


def fitted(pixels: np.ndarray, side: int) -> np.ndarray:
    """What the detector sees of a picture that is wider than high."""
    height, width = pixels.shape[:2]
    square = np.zeros((side, side, 3), np.uint8)
    inner = int(side * height / width)
    square[:inner] = resampling.resized(pixels, side, inner)
    return ((square.astype(np.float64) - 127.5) / 128).transpose(2, 0, 1)[None]


def test_faces_of_a_picture(pack: Path, analysis: FaceAnalysis) -> None:
    pixels = smooth(400, 250, seed=2)
    ends = run(pack / "scrfd_10g_bnkps.onnx", fitted(pixels, 640))
    want = published(ends, 640, 640, 1.6, 0.5)
    want.sort(key=lambda one: -(one[0][2] - one[0][0]) * (one[0][3] - one[0][1]))
    got = analysis.get(Image.fromarray(pixels))
    assert len(want) == len(got) > 3
    for face, (box, score, kps) in zip(got, want, strict=True):
        np.testing.assert_allclose(face.bbox, box, rtol=1e-4, atol=0.01)
        np.testing.assert_allclose(face.kps, kps, rtol=1e-4, atol=0.01)
        assert abs(face.det_score - score) < 1e-5
        seen = resampling.warped(pixels, umeyama(face.kps.astype(float), alignment.TEMPLATE), 112)
        blob = ((seen.astype(np.float64) - 127.5) / 127.5).transpose(2, 0, 1)[None]
        (ref,) = run(pack / "glintr100.onnx", blob)
        assert np.linalg.norm(face.embedding - ref[0]) < 1e-4 * np.linalg.norm(ref)
        normed = face.embedding / np.linalg.norm(face.embedding)
        np.testing.assert_allclose(face.normed_embedding, normed, rtol=1e-6)
    areas = [face.area for face in got]
    assert areas == sorted(areas, reverse=True)


def test_all_kinds_of_pictures(tmp_path: Path, analysis: FaceAnalysis) -> None:
    image = Image.fromarray(smooth(400, 250, seed=2))
    image.save(tmp_path / "x.png")
    first = analysis.get(image)
    for same in (tmp_path / "x.png", str(tmp_path / "x.png"), np.asarray(image)):
        found = analysis.get(same)
        assert len(found) == len(first)
        assert all(
            np.array_equal(a.embedding, b.embedding) for a, b in zip(found, first, strict=True)
        )
    analysis.release()
    assert np.array_equal(analysis.get(image)[0].kps, first[0].kps)


def test_a_smaller_fit_is_tried(pack: Path) -> None:
    """What has no score high enough in 640 x 640 pixels may have one in fewer."""
    pixels = smooth(400, 250, seed=2)
    outputs = {
        side: run(pack / "scrfd_10g_bnkps.onnx", fitted(pixels, side))
        for side in (640, 576, 512, 448, 384, 320, 256)
    }
    best = {side: max(float(end.max()) for end in ends[:3]) for side, ends in outputs.items()}
    side = next(side for side in best if best[side] > best[640])
    threshold = (best[640] + best[side]) / 2
    analysis = FaceAnalysis.from_pretrained(pack, det_thresh=threshold)
    want = published(outputs[side], side, side, int(side * 250 / 400) / 250, threshold)
    got = analysis.get(pixels)
    assert len(got) == len(want)
    np.testing.assert_allclose(
        max(got, key=lambda face: face.det_score).bbox, want[0][0], rtol=1e-3, atol=0.05
    )
    none = FaceAnalysis.from_pretrained(pack, det_thresh=0.9999)
    Image.fromarray(pixels).save(pack.parent / "nobody.png")
    with pytest.raises(sdcore.InvalidArgumentError, match=r"no face in '.*nobody.png'") as caught:
        none.get(pack.parent / "nobody.png")
    assert f"score of {max(best.values()):.2f}, and 0.9999 is wanted" in str(caught.value)


def test_a_network_of_one_size(tmp_path: Path) -> None:
    """A file may say the size of its pictures; and one that normalises them itself."""
    model = tiny_faces.scrfd(surest=SUREST)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims, (1, 3, 320, 320), strict=True):
        dim.dim_value = size
    onnx.save(model, tmp_path / "det_10g.onnx")
    onnx.save(tiny_faces.iresnet(normalises=True), tmp_path / "r100.onnx")
    pixels = smooth(320, 320, seed=2)
    faces = FaceAnalysis.from_pretrained(tmp_path).get(pixels)
    blob = ((pixels.astype(np.float64) - 127.5) / 128).transpose(2, 0, 1)[None]
    want = published(run(tmp_path / "det_10g.onnx", blob), 320, 320, 1.0, 0.5)
    assert len(faces) == len(want) > 1
    seen = alignment.aligned(pixels, faces[0].kps)
    (ref,) = run(tmp_path / "r100.onnx", seen.transpose(2, 0, 1)[None])
    assert np.linalg.norm(faces[0].embedding - ref[0]) < 1e-4 * np.linalg.norm(ref)


def test_folders(tmp_path: Path, pack: Path) -> None:
    # Unpacked into a folder of its own name, as antelopev2.zip is.
    assert isinstance(FaceAnalysis.from_pretrained(pack.parent), FaceAnalysis)
    with pytest.raises(FileError, match="is no folder"):
        FaceAnalysis.from_pretrained(pack / "glintr100.onnx")
    with pytest.raises(FileError, match="has no ONNX files: give the folder of insightface's"):
        FaceAnalysis.from_pretrained(tmp_path)
    onnx.save(tiny_faces.iresnet(), tmp_path / "w600k_r50.onnx")
    with pytest.raises(UnsupportedModelError, match=r"finds faces .* there are w600k_r50.onnx"):
        FaceAnalysis.from_pretrained(tmp_path)
    # A file that is not read does not matter beside those that are wanted, and is named else.
    odd = tiny_faces.scrfd()
    odd.graph.initializer.append(onnx.helper.make_tensor("t", onnx.TensorProto.BOOL, [1], [True]))
    onnx.save(odd, pack / "odd.onnx")
    assert isinstance(FaceAnalysis.from_pretrained(pack), FaceAnalysis)
    onnx.save(odd, tmp_path / "det.onnx")
    with pytest.raises(UnsupportedModelError, match=r"det.onnx': tensor 't' is of type 9"):
        FaceAnalysis.from_pretrained(tmp_path)
    detector = tiny_faces.scrfd()
    del detector.graph.output[6:]
    onnx.save(detector, tmp_path / "det.onnx")
    with pytest.raises(UnsupportedModelError, match="has 6 outputs: sdcore runs SCRFD with keyp"):
        FaceAnalysis.from_pretrained(tmp_path)
    (tmp_path / "w600k_r50.onnx").unlink()
    with pytest.raises(UnsupportedModelError, match="knows faces"):
        FaceAnalysis.from_pretrained(tmp_path)
    for threshold in (0.0, 1.0, float("nan")):
        with pytest.raises(sdcore.InvalidArgumentError, match="det_thresh"):
            FaceAnalysis.from_pretrained(pack, det_thresh=threshold)
